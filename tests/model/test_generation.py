"""The generation config of saved folders: transformers' own `generate` needs nothing more."""

import json
import shutil

import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from whisper_recipe.model.alignment_heads import alignment_heads
from whisper_recipe.model.generation import make_generation_config
from whisper_recipe.model.load import load_model, load_processor, load_tokenizer, save_model

ZH = [{"language": "zh", "task": "translate"}]
BOTH = [{"language": "zh", "task": "translate"}, {"language": "en", "task": "transcribe"}]


@pytest.fixture(scope="module")
def features():
    return torch.randn(2, 80, 3000, generator=torch.Generator().manual_seed(1)).clamp(-1, 1.5)


def saved(source, folder, data=None):
    """Load and save a folder; open it as any user of transformers does."""
    save_model(folder, load_model(source), load_processor(source), {"data": data} if data else None)
    return WhisperForConditionalGeneration.from_pretrained(folder)


def edit_json(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def generate(model, features, **options):
    return model.generate(features, max_new_tokens=8, **options).tolist()


def test_one_language_and_task_are_what_generate_takes_when_it_is_told_nothing(tiny_model, features, tmp_path):
    model = saved(tiny_model, tmp_path / "model", ZH)
    assert generate(model, features) == generate(model, features, language="zh", task="translate")
    assert generate(model, features) != generate(model, features, language="en", task="transcribe")


def test_a_model_of_two_languages_forgets_the_one_language_of_its_base(tiny_model, features, tmp_path):
    saved(tiny_model, tmp_path / "base", ZH)
    model = saved(tmp_path / "base", tmp_path / "model", BOTH)
    detected = [token[2:-2] for token in load_processor(tiny_model).tokenizer.batch_decode(
        model.detect_language(features).unsqueeze(1), skip_special_tokens=False
    )]  # fmt: skip
    assert generate(model, features) == generate(model, features, language=detected, task="transcribe")


def test_forced_ids_of_older_folders_are_gone_and_the_task_is_still_in_the_prompt(tiny_model, features, tmp_path):
    old = shutil.copytree(tiny_model, tmp_path / "old")
    # As OpenAI's folders have it: language detected, then <|transcribe|>.
    task = json.loads((old / "generation_config.json").read_text())["task_to_id"]["transcribe"]
    forced = {"forced_decoder_ids": [[1, None], [2, task]]}
    edit_json(old / "generation_config.json", lambda values: (values.update(forced), values.pop("task")))
    edit_json(old / "config.json", lambda values: values.update(forced))
    expected = generate(WhisperForConditionalGeneration.from_pretrained(old), features)

    assert generate(saved(old, tmp_path / "new"), features) == expected
    for name in ("config.json", "generation_config.json"):
        assert "forced_decoder_ids" not in json.loads((tmp_path / "new" / name).read_text())


def test_what_an_old_folder_lacks_is_filled_in_and_what_it_has_is_kept(tiny_model, features, tmp_path):
    whole = json.loads((tiny_model / "generation_config.json").read_text())
    old = shutil.copytree(tiny_model, tmp_path / "old")
    keys = ["lang_to_id", "task_to_id", "no_timestamps_token_id", "is_multilingual", "max_length"]
    edit_json(
        old / "generation_config.json",
        lambda values: (
            [values.pop(key) for key in keys],
            values.update(suppress_tokens=[7], alignment_heads=[[1, 1]]),
        ),
    )
    with pytest.raises(ValueError, match="outdated"):
        generate(WhisperForConditionalGeneration.from_pretrained(old), features, language="zh")
    saved(old, tmp_path / "new")
    filled = json.loads((tmp_path / "new/generation_config.json").read_text())
    assert {key: filled[key] for key in keys} == {key: whole[key] for key in keys}
    assert filled["suppress_tokens"] == [7]
    assert filled["alignment_heads"] == [[1, 1]]


def test_the_ids_are_those_of_openais_models(full_vocabulary_model, tmp_path):
    saved(full_vocabulary_model, tmp_path / "model")
    config = json.loads((tmp_path / "model/generation_config.json").read_text())
    # openai/whisper-small, generation_config.json
    assert config["lang_to_id"]["<|en|>"] == 50259
    assert config["lang_to_id"]["<|zh|>"] == 50260
    assert config["task_to_id"] == {"transcribe": 50359, "translate": 50358}
    assert config["no_timestamps_token_id"] == 50363
    assert (config["decoder_start_token_id"], config["eos_token_id"]) == (50258, 50257)


def test_english_only_models_get_no_language_and_task(tiny_model, features, tmp_path):
    old = shutil.copytree(tiny_model, tmp_path / "old")
    edit_json(
        old / "generation_config.json",
        lambda values: ([values.pop(key) for key in ("lang_to_id", "task_to_id", "task")],
                        values.update(is_multilingual=False)),
    )  # fmt: skip
    model = saved(old, tmp_path / "new", [{"language": "en", "task": "transcribe"}])
    assert generate(model, features) == generate(WhisperForConditionalGeneration.from_pretrained(old), features)


def test_the_config_is_that_of_the_hub_for_openais_own_tokenizer(whisper_base):
    config = WhisperConfig.from_pretrained(whisper_base)
    made = make_generation_config(load_tokenizer(whisper_base), config).to_dict()
    hub = json.loads((whisper_base / "generation_config.json").read_text())
    assert {key: made.get(key) for key in hub if key != "transformers_version"} == {
        key: value for key, value in hub.items() if key != "transformers_version"
    }
    assert len(hub["suppress_tokens"]) == 88 and len(hub["lang_to_id"]) == 99


@pytest.mark.parametrize("name", ["tiny", "base.en", "small", "medium.en", "large-v1", "large-v2", "large-v3"])
def test_openais_sizes_have_the_heads_that_ctranslate2_ships(name):
    from ctranslate2.converters.transformers import _WHISPER_ALIGNMENT_HEADS

    # openai/whisper, README and ModelDimensions
    layers, heads = {"tiny": (4, 6), "base": (6, 8), "small": (12, 12), "medium": (24, 16), "large": (32, 20)}[
        name.partition(".")[0].partition("-")[0]
    ]
    config = WhisperConfig(
        encoder_layers=layers,
        decoder_layers=layers,
        decoder_attention_heads=heads,
        num_mel_bins=128 if "v3" in name else 80,
    )
    theirs = [list(pair) for pair in _WHISPER_ALIGNMENT_HEADS[f"openai/whisper-{name.removesuffix('-v1')}"]]
    assert alignment_heads(config, multilingual=not name.endswith(".en"), name=name) == theirs
    if name != "large-v1":
        assert alignment_heads(config, multilingual=not name.endswith(".en")) == theirs


def test_a_distilled_model_has_the_heads_of_its_upper_half():
    config = WhisperConfig(encoder_layers=32, decoder_layers=2, decoder_attention_heads=20, num_mel_bins=128)
    assert alignment_heads(config, multilingual=True, name="large-v3") == [[1, head] for head in range(20)]


def test_large_v3_turbo_has_heads_of_its_own():
    config = WhisperConfig(encoder_layers=32, decoder_layers=4, decoder_attention_heads=20, num_mel_bins=128)
    # generation_config.json of openai/whisper-large-v3-turbo
    assert alignment_heads(config, multilingual=True) == [[2, 4], [2, 11], [3, 3], [3, 6], [3, 11], [3, 14]]


def test_no_token_that_texts_need_is_suppressed_in_a_small_vocabulary(tiny_model):
    """By OpenAI's rule the first token of " -" is suppressed, which is the blank where a vocabulary is small."""
    tokenizer = load_tokenizer(tiny_model)
    made = make_generation_config(tokenizer, WhisperConfig.from_pretrained(tiny_model))
    for text in (" a", "“a”", "…", "三月五号", " set 29 degrees"):
        assert not set(tokenizer(text, add_special_tokens=False).input_ids) & set(made.suppress_tokens), text
    assert tokenizer(" x", add_special_tokens=False).input_ids[0] not in made.begin_suppress_tokens
    assert set(tokenizer("[(", add_special_tokens=False).input_ids) <= set(made.suppress_tokens)
