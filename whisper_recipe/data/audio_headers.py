"""Check the length that libsndfile reports for an audio file, without decoding the file.

Headers lie: recorders and pipes leave placeholders in them, copies end early, and `cat` joins files under the header of
the first. So the length claimed by a header is compared with the actual bytes, which usually takes microseconds. If
they don't match, the caller decodes the file.
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
# Bytes per sample, for encodings in which it is constant, so that samples can be counted from bytes.
WIDTHS = {"PCM_S8": 1, "PCM_U8": 1, "ULAW": 1, "ALAW": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4}
WIDTHS |= {"DOUBLE": 8}
# More samples per byte than any compression reaches: larger claims are ignored.
SAMPLES_PER_BYTE = 10_000
# Decoders add or drop a frame or two at the beginning and end of an MP3 file.
MP3_FRAMES = 2
MP3_FRAME_BYTES = 24  # minimum: 8 kbit/s at 24 kHz
FLAC_BLOCKS = {1: 192, **{n: 576 << (n - 2) for n in range(2, 6)}, **{n: 256 << (n - 8) for n in range(8, 16)}}


class DamagedAudio(RecipeError):
    """Audio that is truncated, or that can't be decoded to its end."""


def truncated(what: str, where: str | os.PathLike) -> DamagedAudio:
    """Return the error for audio that ends before its header says."""
    return DamagedAudio(f"truncated: {what}", where=where, cure=CURE)


def claim_in_doubt(raw: BinaryIO, sound: soundfile.SoundFile | None, where: str | os.PathLike) -> int | None:
    """Return the number of samples per channel that a header claims, 0 if unknown; None if the claim is correct.

    Usually it is: the claim matches the bytes, and libsndfile's count (`sound.frames`) can be used.

    Args:
        raw: the file's bytes.
        sound: the file as opened by libsndfile; None if it could not be opened.
        where: name of the file for errors.

    Raises:
        DamagedAudio: bytes are missing at its end, or another file is appended that nothing would read.
    """
    size = raw.seek(0, os.SEEK_END)
    raw.seek(0)
    mark = raw.read(4)
    check = _chunked if mark in _CHUNKS else sound and _CHECKS.get(sound.format)
    if sound and sound.frames > SAMPLES_PER_BYTE * size:
        return 0
    try:
        return check(raw, size, sound, where) if check else None
    except (IndexError, struct.error):  # the header itself is truncated
        return 0


class _Chunks(NamedTuple):
    """Layout of a file format that consists of chunks.

    Args:
        header: struct format of a chunk's header: id and size.
        first: bytes before the first chunk.
        sound: id of the chunk that holds the samples.
        align: chunks begin at multiples of this.
        skipped: bytes in that chunk before the samples.
        counted: bytes of a chunk's header that are included in its size.
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
        if name == b"ds64":  # of RF64, its data chunk has 0xFFFFFFFF: https://tech.ebu.ch/docs/tech/tech3306v1_0.pdf
            long_size = struct.unpack("<8xQ", raw.read(16))[0]
        if not 0 <= claimed <= size:
            return 0
        at += claimed + -(at + claimed) % layout.align
    if long_size is not None and claimed == 0xFFFFFFFF:
        claimed = long_size
    end = min(at + max(0, claimed), size)
    if end < size:
        raw.seek(end + -end % layout.align)
        if raw.read(4) == mark:  # programs stop after the first file
            raise DamagedAudio("another file is appended and is not read", where=where, cure="split the file")
    return _of_bytes(max(0, claimed - layout.skipped), size - at - layout.skipped, sound, where)


def _of_bytes(claimed: int, actual: int, sound: soundfile.SoundFile | None, where: str | os.PathLike) -> int | None:
    """Compare libsndfile's count with the claimed and the actual number of bytes of samples."""
    missing = claimed - actual
    block = WIDTHS.get(sound.subtype, 0) * sound.channels if sound else 0
    if _is_placeholder(claimed):
        claimed = actual
    elif missing > 0:
        raise truncated(f"{missing} bytes of its samples are missing", where)
    if not block or sound.frames == claimed // block:
        return None
    return 0


def _is_placeholder(claimed: int) -> bool:
    """Return whether a size is a placeholder for an unknown one: 0, about 2^31, 2^32 or 2^63, or a round number.

    Round numbers are 2,000,000,000 and the like; a real size is round by chance in one case in a million.
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
    """Check the positions in the frame headers: https://www.rfc-editor.org/rfc/rfc9639#section-9.1 ."""
    raw.seek(_after_id3(raw) + 8)
    block, _, largest, packed = struct.unpack(">HH3x3sQ", raw.read(18))
    total = packed & (1 << 36) - 1
    window = min(size, (int.from_bytes(largest) or 1 << 16) + 32)
    raw.seek(size - window)
    last = next(_flac_ends(raw.read(window), block), 0)
    if not total or last != total:
        return total
    raw.seek(size // 2)  # a file joined to itself ends correctly, but begins again here
    middle = min(_flac_ends(raw.read(window), block), default=0)
    return None if middle > max(block, total // 20) else total


def _flac_ends(part: bytes, block: int) -> Iterator[int]:
    """Yield the end, in samples, of each frame with its header in a part of a FLAC file, the last first."""
    for sync in reversed(list(re.finditer(rb"\xff[\xf8\xf9]", part))):
        if (end := _end_of_flac_frame(part[sync.start() : sync.start() + 16], block)) is not None:
            yield end


def _end_of_flac_frame(head: bytes, block: int) -> int | None:
    """Return the number of the sample after a frame, from its header; None if the bytes are not a frame header."""
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
    """Go through the pages: https://www.rfc-editor.org/rfc/rfc3533#section-6 ."""
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
    """Compare with the Xing header's frame and byte counts; without it libsndfile guesses from the first frames."""
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
    """Return the offset of the audio, after any ID3v2 tag."""
    raw.seek(0)
    head = raw.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size + (10 if head[5] & 0x10 else 0)


def _tags_at_the_end(raw: BinaryIO, size: int) -> int:
    """Return the number of bytes in ID3v1 and APEv2 tags."""
    raw.seek(max(0, size - 160))
    tail = raw.read()
    found = 128 if tail[-128:-125] == b"TAG" else 0
    ape = tail[: len(tail) - found][-32:]
    if ape[:8] == b"APETAGEX":
        length, flags = struct.unpack("<12xI4xI8x", ape)
        found += length + (32 if flags >> 31 else 0)
    return found


_CHECKS = {"AU": _au, "NIST": _sphere, "FLAC": _flac, "OGG": _ogg, "MP3": _mp3}
