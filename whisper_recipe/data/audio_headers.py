"""Whether libsndfile's word on an audio file's length can be taken, from a few hundred of its bytes.

Headers lie: recorders and pipes leave placeholders in them, copies end early, and `cat` joins files under the header of
the first. So the length that a header claims is compared with the bytes that there are, which takes microseconds. What
doesn't fit is decoded by the caller.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import soundfile

from whisper_recipe.errors import RecipeError

CURE = "find it with whisper-recipe validate, then replace or remove it"
# Bytes of a sample, where all have the same: so bytes can be counted.
WIDTHS = {"PCM_S8": 1, "PCM_U8": 1, "ULAW": 1, "ALAW": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4}
WIDTHS |= {"DOUBLE": 8}
# More samples than any compression gets out of a byte: a claim beyond is none.
SAMPLES_PER_BYTE = 10_000
# Decoders add or leave out the frame or two with which an MP3 file begins and ends.
MP3_FRAMES = 2
MP3_FRAME_BYTES = 24  # at least: 8 kbit/s at 24 kHz
FLAC_BLOCKS = {1: 192, **{n: 576 << (n - 2) for n in range(2, 6)}, **{n: 256 << (n - 8) for n in range(8, 16)}}


class DamagedAudio(RecipeError):
    """Audio that is truncated, or that can't be decoded to its end."""


def truncated(what: str, where: str | os.PathLike) -> DamagedAudio:
    """Return the error for audio that ends before its header says."""
    return DamagedAudio(f"truncated: {what}", where=where, cure=CURE)


def claim_in_doubt(raw: BinaryIO, sound: soundfile.SoundFile | None, where: str | os.PathLike) -> int | None:
    """Return how many samples of one channel audio claims to have, 0 where it doesn't say.

    None is the usual answer: the claim fits the bytes, and libsndfile's count (`sound.frames`) is right.

    Args:
        raw: the same file's bytes.
        sound: the file as libsndfile opened it; None where it could not.
        where: names it in errors.

    Raises:
        DamagedAudio: bytes are missing at its end, or another file is joined to it that nothing would read.
    """
    size = raw.seek(0, os.SEEK_END)
    raw.seek(0)
    mark = raw.read(4)
    check = _chunked if mark in _CHUNKS else sound and _CHECKS.get(sound.format)
    if sound and sound.frames > SAMPLES_PER_BYTE * size:
        return 0
    try:
        return check(raw, size, sound, where) if check else None
    except (IndexError, struct.error):  # the header itself ends early
        return 0


class _Chunks(NamedTuple):
    """How a format of chunks is laid out: id and size in their headers, and what its sound is called.

    Args:
        header: of a chunk, id and size, for struct.
        first: bytes before the first chunk.
        sound: id of the chunk of samples.
        align: chunks begin at multiples of this.
        skipped: bytes of that chunk before the samples.
        counted: bytes of a chunk's header that its size counts.
    """

    header: str
    first: int
    sound: bytes
    align: int = 2
    skipped: int = 0
    counted: int = 0


_WAV = _Chunks("<4sI", 12, b"data")
_CHUNKS = {
    b"RIFF": _WAV,
    b"RF64": _WAV,
    b"RIFX": _WAV._replace(header=">4sI"),
    b"FORM": _Chunks(">4sI", 12, b"SSND", skipped=8),
    b"caff": _Chunks(">4sQ", 8, b"data", align=1, skipped=4),
    b"riff": _Chunks("<16sQ", 40, b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a", align=8, counted=24),
}


def _chunked(raw: BinaryIO, size: int, sound: soundfile.SoundFile | None, where: str | os.PathLike) -> int | None:
    raw.seek(0)
    mark = raw.read(4)
    layout = _CHUNKS[mark]
    length = struct.calcsize(layout.header)
    at, long_size = layout.first, None
    while True:
        raw.seek(at)
        name, claimed = struct.unpack(layout.header, raw.read(length))
        at, claimed = at + length, claimed - layout.counted
        if name == layout.sound:
            break
        if name == b"ds64":  # of RF64, whose data chunk says 0xFFFFFFFF: https://tech.ebu.ch/docs/tech/tech3306v1_0.pdf
            long_size = struct.unpack("<8xQ", raw.read(16))[0]
        if not 0 <= claimed <= size:
            return 0
        at += claimed + -(at + claimed) % layout.align
    if long_size is not None and claimed == 0xFFFFFFFF:
        claimed = long_size
    end = min(at + max(0, claimed), size)
    if end < size:
        raw.seek(end + -end % layout.align)
        if raw.read(4) == mark:  # programs stop at the end of the first
            raise DamagedAudio("another file is joined to it, which is not read", where=where, cure="part them")
    return _of_bytes(max(0, claimed - layout.skipped), size - at - layout.skipped, sound, where)


def _of_bytes(claimed: int, there: int, sound: soundfile.SoundFile | None, where: str | os.PathLike) -> int | None:
    """Compare libsndfile's count with the bytes of samples that a header claims and that there are."""
    missing = claimed - there
    block = WIDTHS.get(sound.subtype, 0) * sound.channels if sound else 0
    if _is_placeholder(claimed):
        claimed = there
    elif missing > 0:
        raise truncated(f"{missing} bytes of its samples are missing", where)
    if not block or sound.frames == claimed // block:
        return None
    return 0


def _is_placeholder(claimed: int) -> bool:
    """Whether a size is what programs write that don't know it yet: none, about 2^31, 2^32 or 2^63, or a round number.

    Round ones are 2,000,000,000 and the like; real sizes are so by chance in one case of a million.
    """
    near_the_largest = 0x7FFF0000 <= claimed <= 0x80001000 or 0xFFFF0000 <= claimed <= 0xFFFFFFFF
    return claimed == 0 or near_the_largest or claimed >= 1 << 62 or (claimed >= 10**9 and claimed % 10**6 == 0)


def _au(raw: BinaryIO, size: int, sound: soundfile.SoundFile, where: str | os.PathLike) -> int | None:
    raw.seek(0)
    order = ">" if raw.read(4) == b".snd" else "<"
    offset, claimed = struct.unpack(f"{order}II", raw.read(8))
    doubt = _of_bytes(claimed, size - offset, sound, where)
    return 0 if not _is_placeholder(claimed) and offset + claimed < size else doubt


def _sphere(raw: BinaryIO, size: int, sound: soundfile.SoundFile, where: str | os.PathLike) -> int | None:
    raw.seek(0)
    head = raw.read(1024)
    fields = dict(re.findall(rb"^(sample_count|channel_count|sample_n_bytes) -i (\d{1,18})\s*$", head, re.MULTILINE))
    offset = re.match(rb"NIST_1A\n\s*(\d{1,9})\n", head)
    if offset is None:
        return 0
    count, channels, width = (int(fields.get(key, 0)) for key in (b"sample_count", b"channel_count", b"sample_n_bytes"))
    return _of_bytes(count * channels * width, size - int(offset[1]), sound, where)


def _flac(raw: BinaryIO, size: int, sound: soundfile.SoundFile, where: str | os.PathLike) -> int | None:
    """Frames say where they stand: https://www.rfc-editor.org/rfc/rfc9639#section-9.1 ."""
    raw.seek(_after_id3(raw) + 8)
    block, _, largest, packed = struct.unpack(">HH3x3sQ", raw.read(18))
    total = packed & (1 << 36) - 1
    window = min(size, (int.from_bytes(largest) or 1 << 16) + 32)
    raw.seek(size - window)
    last = next(_flac_ends(raw.read(window), block), 0)
    if not total or last != total:
        return total
    raw.seek(size // 2)  # a file joined to itself ends as it should, and begins again here
    middle = min(_flac_ends(raw.read(window), block), default=0)
    return None if middle > max(block, total // 20) else total


def _flac_ends(part: bytes, block: int) -> Iterator[int]:
    """Yield where the frames end whose headers are in a part of a FLAC file, the last first."""
    for sync in reversed(list(re.finditer(rb"\xff[\xf8\xf9]", part))):
        if (end := _end_of_flac_frame(part[sync.start() : sync.start() + 16], block)) is not None:
            yield end


def _end_of_flac_frame(head: bytes, block: int) -> int | None:
    """Return the number of the sample after a frame, from its header; None where the bytes are no such header."""
    if len(head) < 6:
        return None
    ones = 8 - (~head[4] & 0xFF).bit_length()  # as in UTF-8, up to 36 bits
    more = max(0, ones - 1)
    number = head[4] & (0x7F >> ones)
    for byte in head[5 : 5 + more]:
        number = number << 6 | byte & 0x3F
    at, code, rate = 5 + more, head[2] >> 4, head[2] & 15
    of_block, of_rate = {6: 1, 7: 2}.get(code, 0), {12: 1, 13: 2, 14: 2}.get(rate, 0)
    own = 1 + int.from_bytes(head[at : at + of_block]) if of_block else FLAC_BLOCKS.get(code)
    at += of_block + of_rate
    if own is None or at >= len(head) or _crc8(head[:at]) != head[at]:
        return None
    return (number if head[1] == 0xF9 else number * block) + own


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
    return crc


def _ogg(raw: BinaryIO, size: int, sound: soundfile.SoundFile, where: str | os.PathLike) -> int | None:
    """Go from page to page: https://www.rfc-editor.org/rfc/rfc3533#section-6 ."""
    at, begun, ended = 0, 0, False
    while at < size:
        raw.seek(at)
        head = raw.read(27 + 255)
        if head[:4] != b"OggS" or len(head) < 27:
            break
        begun, ended = begun + (head[5] >> 1 & 1), bool(head[5] & 4)
        table = head[27 : 27 + head[26]]
        at += 27 + head[26] + sum(table)
    if at > size:
        raise truncated(f"{at - size} bytes of its last page are missing", where)
    if begun == 1 and not ended:
        if at < size:
            return 0
        raise truncated("its last page is not marked as the end", where)
    return None if begun == 1 else 0


def _mp3(raw: BinaryIO, size: int, sound: soundfile.SoundFile, where: str | os.PathLike) -> int | None:
    """Compare with Xing's counts of frames and bytes; without them libsndfile guesses by the first frames."""
    start = _after_id3(raw)
    raw.seek(start)
    head = raw.read(4 + 32 + 16)
    mono, mpeg1 = head[3] >> 6 == 3, head[1] >> 3 & 3 == 3
    tag = head[4 + ({(True, True): 17, (False, False): 17, (True, False): 9}.get((mono, mpeg1), 32)) :]
    if tag[:4] not in (b"Xing", b"Info") or tag[7] & 3 != 3:
        return 0
    frames, length = struct.unpack(">II", tag[8:16])
    excess = size - start - length - _tags_at_the_end(raw, size)
    by_frames = frames * (1152 if mpeg1 else 576)
    fits = 0 < frames * MP3_FRAME_BYTES <= length and abs(excess) <= MP3_FRAMES * length / frames
    return None if fits and abs(by_frames - sound.frames) <= MP3_FRAMES * 1152 else sound.frames


def _after_id3(raw: BinaryIO) -> int:
    """Return where audio begins after an ID3v2 tag."""
    raw.seek(0)
    head = raw.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size + (10 if head[5] & 0x10 else 0)


def _tags_at_the_end(raw: BinaryIO, size: int) -> int:
    """Return the bytes of ID3v1 and APEv2 tags."""
    raw.seek(max(0, size - 160))
    tail = raw.read()
    found = 128 if tail[-128:-125] == b"TAG" else 0
    ape = tail[: len(tail) - found][-32:]
    if ape[:8] == b"APETAGEX":
        length, flags = struct.unpack("<12xI4xI8x", ape)
        found += length + (32 if flags >> 31 else 0)
    return found


_CHECKS = {"AU": _au, "NIST": _sphere, "FLAC": _flac, "OGG": _ogg, "MP3": _mp3}
