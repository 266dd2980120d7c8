"""Changes of the training data: what they do to a waveform, and that they depend on the batch alone."""

import random

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from lhotse import CutSet, Recording
from lhotse.cut import MonoCut
from transformers import WhisperProcessor

from tests.conftest import make_model
from whisper_recipe.data.augment import load_samples
from whisper_recipe.data.features import load_fbank, log_mel
from whisper_recipe.errors import RecipeError
from whisper_recipe.training.augment import Augmenter, TrainingAugmentation, reverberated
from whisper_recipe.training.batches import CutDataset, load_cuts
from whisper_recipe.training.sampler import Batch


@pytest.fixture
def cuts(corpus):
    return list(load_cuts([corpus]))


@pytest.fixture
def response(tmp_path):
    """A folder with one impulse response: silence, the direct sound, an echo 0.1 s later."""
    (tmp_path / "rooms").mkdir()
    samples = np.zeros(4000, dtype=np.float32)
    samples[160], samples[1760] = 0.8, 0.4
    soundfile.write(tmp_path / "rooms/room.wav", samples, 16000, subtype="FLOAT")
    return tmp_path / "rooms"


def load(cut, seed=0, **options):
    return Augmenter(TrainingAugmentation(**options), 80).load(cut, random.Random(seed))


def test_without_options_the_stored_features_are_loaded(cuts):
    for cut in cuts[:3]:
        same, features = load(cut)
        assert same is cut
        torch.testing.assert_close(features, load_fbank(cut), atol=0, rtol=0)


def test_volume_is_a_factor_of_the_waveform(cuts):
    cut, features = load(cuts[0], volume=[0.5, 0.5])
    expected = log_mel(0.5 * load_samples(cuts[0]), 80)
    torch.testing.assert_close(features, expected)
    assert (expected - log_mel(load_samples(cuts[0]), 80)).abs().max() > 0.1


def test_another_speed_has_another_length_and_other_times(cuts):
    cuts[5].supervisions[0].custom["segments"] = [{"start": 0.4, "end": 0.8, "text": "turn"}]
    cut, features = load(cuts[5], speed=[0.8])
    assert len(features) == pytest.approx(len(load_fbank(cuts[5])) / 0.8, abs=2)
    assert cut.supervisions[0].custom["segments"] == [{"start": 0.5, "end": 1.0, "text": "turn"}]
    lengths = {len(load(cuts[5], seed, speed=[0.8, 1.0, 1.25])[1]) for seed in range(30)}
    assert len(lengths) == 3


def test_a_cut_is_not_slowed_down_beyond_30_s(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.random.default_rng(0).standard_normal(29 * 16000) / 10, 16000)
    recording = Recording.from_file(tmp_path / "x.wav")
    cut = MonoCut("x", 0, recording.duration, 0, recording=recording)
    assert len(load(cut, speed=[0.9])[1]) == len(load(cut)[1])


def test_reverberation_is_a_convolution_with_the_energy_and_place_of_the_sound(cuts, response):
    samples = load_samples(cuts[3])
    sound = reverberated(samples, soundfile.read(response / "room.wav", dtype="float32")[0])
    kernel = np.zeros(1601)
    kernel[0], kernel[1600] = 0.8, 0.4
    expected = scipy.signal.convolve(samples, kernel)[: len(samples)]
    expected *= np.sqrt(np.sum(samples**2) / np.sum(expected**2))
    np.testing.assert_allclose(sound, expected, atol=1e-5)
    _, features = load(cuts[3], reverberation=response, reverberation_probability=1.0)
    torch.testing.assert_close(features, log_mel(sound, 80))
    _, features = load(cuts[3], reverberation=response, reverberation_probability=0.0)
    torch.testing.assert_close(features, log_mel(samples, 80))


def test_noise_has_its_share_and_its_level(cuts, response):
    changed = [load(cuts[3], seed, noise=response, noise_snr=[10, 10], noise_probability=0.5)[1] for seed in range(40)]
    plain = log_mel(load_samples(cuts[3]), 80)
    assert 10 <= sum(not torch.equal(features, plain) for features in changed) <= 30


def test_spec_augment_masks_bins_and_frames_within_its_limits(cuts):
    plain = load_fbank(cuts[11])
    options = {"spec_augment": 1.0, "time_warp": 0, "time_masks": 2, "time_mask_frames": 30, "time_masked": 0.1}
    frames = (load(cuts[11], frequency_masks=0, **options)[1] != plain).any(1).sum()
    assert 0 < frames <= 0.1 * len(plain) + 1
    masked = load(cuts[11], frequency_masks=1, frequency_mask_bins=10, **options)[1]
    bins = ((masked != plain).float().mean(0) > 0.5).sum()
    assert 0 < bins <= 10
    assert torch.equal(load(cuts[11], spec_augment=0.0)[1], plain)


def test_what_is_drawn_depends_on_the_batch_and_on_nothing_else(cuts, tiny_model, response):
    tokenizer = WhisperProcessor.from_pretrained(tiny_model).tokenizer
    augment = TrainingAugmentation(
        speed=[0.9, 1.0, 1.1], volume=[0.5, 2.0], noise=response, reverberation=response, spec_augment=0.8
    )
    dataset = CutDataset(tokenizer, 80, augment=augment, seed=1)
    batch = CutSet.from_cuts(cuts[:4])
    torch.manual_seed(5)
    first = dataset[Batch(3, batch)]["input_features"]
    state = torch.get_rng_state()
    random.random()
    assert torch.equal(dataset[Batch(3, batch)]["input_features"], first)
    assert torch.equal(torch.get_rng_state(), state)
    other = dataset[Batch(4, batch)]["input_features"]
    assert other.shape != first.shape or not torch.equal(other, first)


def test_features_without_audio_can_not_change_their_waveform(cuts):
    cuts[0].recording = None
    with pytest.raises(RecipeError, match="waveform augmentation needs audio"):
        load(cuts[0], volume=[0.5, 2.0])
    assert load(cuts[0], spec_augment=1.0)[1].shape == load_fbank(cuts[0]).shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": [3.0]}, "augment.speed"),
        ({"volume": [2.0, 1.0]}, "augment.volume"),
        ({"volume": [0.0, 1.0]}, "augment.volume"),
        ({"spec_augment": 1.5}, "augment.spec_augment"),
        ({"time_masked": -0.5}, "augment.time_masked"),
        ({"time_masks": 0}, "augment.time_masks"),
        ({"reverberation_probability": 2}, "augment.reverberation_probability"),
        ({"noise_snr": [20, 5]}, "augment.noise_snr"),
    ],
)
def test_impossible_options_are_named(options, message):
    with pytest.raises(RecipeError, match=message):
        TrainingAugmentation(**options)


def test_a_folder_without_audio_is_named(tmp_path):
    for option in ("noise", "reverberation"):
        with pytest.raises(RecipeError, match=f"contains no audio files; set augment.{option}"):
            Augmenter(TrainingAugmentation(**{option: tmp_path}), 80)


@pytest.mark.slow
def test_augmentation_reaches_the_training_and_not_the_evaluation(corpus, transcripts, tmp_path, monkeypatch):
    from tests.training.test_train import train

    model = make_model(tmp_path / "model", transcripts)
    seen = []
    plain = Augmenter.load
    monkeypatch.setattr(Augmenter, "load", lambda self, *args: seen.append(self.options.volume) or plain(self, *args))
    assert train(corpus, model, tmp_path / "exp", "--augment.volume", "0.5", "0.6") == 0
    assert seen.count([0.5, 0.6]) >= 3
    assert seen.count([]) == 12


def test_augmentation_leaves_the_random_numbers_of_gpus_alone(cuts, monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("reseeds the GPUs"))
    before = torch.get_rng_state()
    load(cuts[0], spec_augment=1.0)
    assert torch.equal(torch.get_rng_state(), before)
