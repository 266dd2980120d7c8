"""Silence, clipping and the like, on signals whose measures are known by hand."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from tests.data.conftest import tone
from whisper_recipe.data.audio import decode_fully, read_mono
from whisper_recipe.data.fix import fix
from whisper_recipe.data.signals import Signals
from whisper_recipe.data.validate import validate
from whisper_recipe.errors import RecipeError

SPEECH = tone(1)
CLIPPED = np.clip(3 * SPEECH, -1, 1)


def measured(*channels):
    signals = Signals(len(channels))
    for block in np.array_split(np.stack(channels, axis=1).astype(np.float32), 3):
        signals.add(block)
    return signals


def kinds(found):
    return [kind for kind, _ in found]


def test_each_channel_and_the_mix_are_measured():
    signals = measured(SPEECH, np.zeros(16000))
    assert signals.num_samples == 16000
    assert [signals.is_silent(row) for row in range(3)] == [False, True, False]
    assert signals.high == pytest.approx([0.5, 0, 0.25], abs=1e-4)
    assert signals.power / 16000 == pytest.approx([0.125, 0, 0.03125], abs=1e-4)  # of a sine: half its square
    assert (signals.loudest, signals.cancelled) == (0, False)


@pytest.mark.parametrize(
    ("samples", "remarks", "faults"),
    [
        (SPEECH, [], []),
        (CLIPPED, ["clipping"], []),
        (SPEECH / 2 + 0.1, ["DC offset"], []),
        (SPEECH * 32768, [], ["not in full scale"]),
        (SPEECH * np.nan, [], ["not a number"]),
    ],
)
def test_remarks_and_faults(samples, remarks, faults):
    signals = measured(samples)
    assert (kinds(signals.remarks(0)), kinds(signals.faults(0))) == (remarks, faults)


def test_a_constant_is_silent_and_does_not_count_as_loud():
    signals = measured(np.full(16000, 0.5), SPEECH / 100)
    assert signals.is_silent(0)
    assert signals.loudest == 1


def test_opposite_phase():
    assert measured(SPEECH, -SPEECH).cancelled
    assert kinds(measured(SPEECH, -0.99 * SPEECH).remarks(0)) == ["opposite phase"]
    for other in (SPEECH, tone(1, hertz=300), 0 * SPEECH, -0.5 * SPEECH):
        assert not measured(SPEECH, other).cancelled
    assert not measured(0 * SPEECH, 0 * SPEECH).cancelled


def test_transcription_gets_the_loudest_channel_where_the_mix_is_silent(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.stack([0.5 * SPEECH, -0.5 * SPEECH], axis=1), 16000, subtype="FLOAT")
    samples, wrong = read_mono(tmp_path / "x.wav")
    assert np.allclose(samples, 0.5 * SPEECH, atol=1e-6)
    assert "cancel each other" in wrong


def test_transcription_divides_floating_point_samples_in_the_scale_of_16_bits(tmp_path):
    soundfile.write(tmp_path / "x.wav", SPEECH * 32768, 16000, subtype="FLOAT")
    samples, wrong = read_mono(tmp_path / "x.wav")
    assert np.allclose(samples, SPEECH, atol=1e-6)
    assert "divided by 32,768" in wrong


def test_silence_is_judged_on_what_will_be_used(make_data_dir, tmp_path, capsys):
    folder = make_data_dir()
    soundfile.write(folder / "wav" / "b.wav", np.stack([np.zeros(32000), tone(2)], axis=1), 16000)
    for channel in (1, "auto", "mix"):
        validate(folder, channel=channel)
    with pytest.raises(RecipeError, match="1 problem"):
        validate(folder)
    assert "wav.scp:2: silent audio: " in (printed := capsys.readouterr().out)
    assert "no sound in its channel 0, but in channel 1: see --channel" in printed
    fix(folder, tmp_path / "one")
    fix(folder, tmp_path / "both", channel="auto")
    assert (tmp_path / "one/text").read_text().split()[::3] == ["a"]
    assert len((tmp_path / "both/text").read_text().splitlines()) == 2


def test_remarks_are_listed_and_no_problem(make_data_dir, capsys):
    folder = make_data_dir()
    soundfile.write(folder / "wav" / "a.wav", CLIPPED, 16000)
    soundfile.write(folder / "wav" / "b.wav", np.stack([tone(2), -tone(2)], axis=1), 16000)
    validate(folder)
    printed = capsys.readouterr().out
    assert "wav.scp:1: clipping: " in printed
    assert "wav.scp:2: opposite phase: " in printed
    assert printed.splitlines()[-1].endswith("2 utterances, no problems, 2 remarks")
    with pytest.raises(RecipeError):
        validate(folder, channel="mix")
    assert "no sound in its mix, but in channel 0" in capsys.readouterr().out


def test_samples_in_the_scale_of_16_bits_are_a_problem(make_data_dir, capsys):
    folder = make_data_dir()
    soundfile.write(folder / "wav" / "a.wav", SPEECH * 32768, 16000, subtype="FLOAT")
    with pytest.raises(RecipeError, match="1 problem"):
        validate(folder)
    assert "not in full scale" in capsys.readouterr().out


def test_a_recorded_file_whose_left_channel_is_empty(shared_cases):
    signals = decode_fully(shared_cases / "st_left_empty.wav").signals
    assert (signals.is_silent(0), signals.is_silent(1), signals.loudest) == (True, False, 1)
