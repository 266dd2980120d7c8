"""Features against transformers.WhisperFeatureExtractor."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from whisper_recipe.data.features import (
    WhisperLogMel,
    WhisperLogMelConfig,
    collate_fbank,
    log_mel,
    num_frames,
    silence_value,
)
from whisper_recipe.errors import RecipeError

EXTRACTORS = {bins: WhisperFeatureExtractor(feature_size=bins) for bins in (80, 128)}


def whisper(samples, bins=80):
    """Return transformers' features of the samples padded to 30 s, (bins, 3000)."""
    return EXTRACTORS[bins](samples, sampling_rate=16000, return_tensors="np").input_features[0]


def noise(count, level=0.1, seed=0):
    return (level * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def difference(samples, bins=80):
    """Return the largest difference of our features, padded to 30 s, from Whisper's: any frame, any bin."""
    batch = collate_fbank([log_mel(samples, bins)], 3000)
    assert batch.shape == (1, bins, 3000)
    assert batch.dtype == torch.float32
    return np.abs(batch[0].numpy() - whisper(samples, bins)).max()


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize(
    "count", [80, 160, 201, 202, 239, 240, 400, 16000, 16079, 16080, 50001, 479_100, 479_801, 479_999, 480_000]
)
def test_an_utterance_padded_to_30_s_equals_whispers_frame_for_frame(count, bins):
    assert difference(noise(count), bins) < 1e-3


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 40_000),
    bins=st.sampled_from([80, 128]),
    level=st.sampled_from([1.0, 0.1, 1e-3, 1e-6, 0.0]),
    quiet_end=st.integers(0, 500),
)
def test_so_does_any_other(count, bins, level, quiet_end):
    samples = noise(count, level)
    samples[count - min(count, quiet_end) :] = 0
    assert difference(samples, bins) < 1e-3


def test_the_frames_kept_are_those_that_the_samples_have_a_part_in():
    window = torch.hann_window(400)
    for count in range(15_800, 16_300):
        # The last sample stands at this place of the last frame's window, and before the next frame's begins.
        place = 200 + (count - 1) - 160 * (num_frames(count) - 1)
        assert window[place] > 0
        assert place - 160 < 1


def test_recorded_speech_equals_whispers(shared_data):
    paths = [*(shared_data / "aishell_multitask" / "wav").iterdir(), shared_data / "english/libri-1088-134315-0000.wav"]
    for path in paths:
        assert difference(soundfile.read(path, dtype="float32")[0]) < 1e-3


@pytest.mark.parametrize("level", [0.5, 1e-3, 1e-7, 0.0])
def test_padding_has_the_value_that_whisper_gives_silence(level):
    samples = noise(20000, level)
    assert silence_value(log_mel(samples, 80)).item() == pytest.approx(whisper(samples)[0, -1], abs=1e-3)


def test_each_utterance_of_a_batch_is_padded_with_its_own_silence():
    loud, quiet = torch.full((3, 80), 1.0), torch.full((5, 80), 0.4, dtype=torch.float16)
    batch = collate_fbank([loud, quiet])
    assert batch.shape == (2, 80, 5)
    assert batch[0, :, :3].eq(1.0).all()
    assert batch[0, :, 3:].eq(-1.0).all()
    assert torch.allclose(batch[1], torch.tensor(0.4), atol=1e-3)


def test_the_extractor_gives_lhotse_the_frames_it_counts():
    extractor = WhisperLogMel(WhisperLogMelConfig(128))
    assert extractor.extract(noise(16000)[None], 16000).shape == (100, 128)
    with pytest.raises(RecipeError, match="sampling rate must be 16000 Hz, got 8000; resample it"):
        extractor.extract(noise(8000), 8000)
