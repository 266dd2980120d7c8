import json

import pytest
import torch

from whisper_recipe.data.input_length import InputLength, input_length
from whisper_recipe.errors import RecipeError
from whisper_recipe.model.load import load_processor
from whisper_recipe.training.batches import load_cuts, make_loader
from whisper_recipe.training.sampler import BatchOptions


def write_record(folder, **record):
    (folder / "whisper_recipe.json").write_text(json.dumps(record))
    return folder


def test_spare_frames_are_silence_after_the_longest_and_end_at_30_s():
    utterances = [torch.rand(200, 80), torch.rand(150, 80)]
    batch = InputLength(pad_to_30s=False, spare_frames=64).collate(utterances)
    assert batch.shape == (2, 80, 264)
    for row, utterance in zip(batch, utterances, strict=True):
        # Whisper clamps at 8 powers of ten under the loudest; features are these powers divided by 4.
        silence = max(float(utterance.max()) - 2.0, -1.5)
        assert torch.equal(row[:, : len(utterance)], utterance.T)
        assert torch.all(row[:, len(utterance) :] == silence)
    assert InputLength(False, 64).collate([torch.rand(2980, 80)]).shape[-1] == 3000
    assert InputLength(True, 64).collate(utterances).shape[-1] == 3000


def test_the_folder_says_how_long_inputs_are_unless_an_option_does(tmp_path):
    assert input_length(tmp_path) == (True, 0)  # a stock model
    write_record(tmp_path, natural_length=True, spare_frames=32)
    assert input_length(tmp_path) == (False, 32)
    assert input_length(tmp_path, pad_to_30s=True, spare_frames=0) == (True, 0)
    with pytest.raises(RecipeError, match="spare_frames: must be between 0 and 3000, got 3001"):
        input_length(tmp_path, spare_frames=3001)
    write_record(tmp_path, natural_length=True, spare_frames="64")
    with pytest.raises(RecipeError, match="not a valid training record"):
        input_length(tmp_path)


def test_training_adds_them_and_its_budget_counts_them(corpus, tiny_model):
    tokenizer = load_processor(str(tiny_model)).tokenizer
    cuts = load_cuts([corpus])
    plain, spare = (
        BatchOptions(max_duration=8, num_workers=0, num_buckets=2, spare_frames=count) for count in (0, 100)
    )
    for batch in make_loader(cuts, tokenizer, spare, shuffle=False):
        durations = [cut.duration + 1 for cut in cuts if cut.id in batch["cuts"]]
        assert len(durations) == 1 or sum(durations) <= 8
        assert batch["input_features"].shape[-1] == pytest.approx(100 * max(durations), abs=2)
    count = [sum(1 for _ in make_loader(cuts, tokenizer, options, shuffle=False)) for options in (plain, spare)]
    assert count[0] < count[1]
    with pytest.raises(RecipeError, match=r"batches\.spare_frames: must be between 0 and 3000, got -1"):
        BatchOptions(spare_frames=-1)
