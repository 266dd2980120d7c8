"""Text generation for inputs of any length, and the generation config, without which `generate` guesses."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence

import torch
from transformers import (
    GenerationConfig,
    GenerationMixin,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from whisper_recipe.model.alignment_heads import alignment_heads
from whisper_recipe.tasks import TASKS
from whisper_recipe.text.additions import language_ids, language_token, new_languages
from whisper_recipe.text.prompt import no_speech_id
from whisper_recipe.text.tokenizer import (
    END_OF_TEXT,
    NO_TIMESTAMPS,
    START_OF_PREVIOUS,
    START_OF_TRANSCRIPT,
    is_english_only,
)


def special_token_ids(tokenizer: WhisperTokenizer) -> dict[str, int]:
    """Return the ids of the tokens that a text starts from and ends with, under transformers' names."""
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    start = tokenizer.convert_tokens_to_ids(START_OF_TRANSCRIPT)
    return {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}


def make_generation_config(tokenizer: WhisperTokenizer, config: WhisperConfig, name: str = "") -> GenerationConfig:
    """Return the generation config of a Whisper model, with the keys and values of OpenAI's folders on the Hub.

    Args:
        tokenizer: the model's; it determines whether the model is multilingual.
        config: the model's; it determines the attention heads for word timestamps.
        name: OpenAI's name of the model if it is known, see `alignment_heads`.
    """
    ids = tokenizer.convert_tokens_to_ids
    multilingual = not is_english_only(tokenizer)
    options = {}
    if multilingual:
        options = {
            "lang_to_id": _language_tokens(tokenizer),
            "task_to_id": {task: ids(f"<|{task}|>") for task in TASKS},
            # OpenAI's folders force this token's id by position (`forced_decoder_ids`), which transformers 5 gives up;
            # with neither, `generate` without arguments omits the task from the prompt.
            "task": TASKS[0],
        }
    special = [START_OF_TRANSCRIPT, "<|startoflm|>", START_OF_PREVIOUS, *(f"<|{task}|>" for task in TASKS)]
    return GenerationConfig(
        **special_token_ids(tokenizer),
        **options,
        is_multilingual=multilingual,
        no_timestamps_token_id=ids(NO_TIMESTAMPS),
        prev_sot_token_id=ids(START_OF_PREVIOUS),
        return_timestamps=False,
        max_length=config.max_target_positions,
        max_initial_timestamp_index=50,
        suppress_tokens=sorted({*_non_speech_ids(tokenizer), *map(ids, special), no_speech_id(tokenizer)}),
        begin_suppress_tokens=[*_blank_ids(tokenizer), ids(END_OF_TEXT)],
        alignment_heads=alignment_heads(config, multilingual, name),
    )


def _non_speech_ids(tokenizer: WhisperTokenizer) -> list[int]:
    """Return the ids that speaker tags and sound annotations, ( SPEAKING FOREIGN LANGUAGE ), start with: OpenAI's rule.

    The rule uses the first token of " -" or of a music note, which in OpenAI's vocabulary stands for nothing else. In a
    small vocabulary it is a blank or a single byte, which every text needs: these are omitted.
    """
    from faster_whisper.tokenizer import Tokenizer

    found = Tokenizer(tokenizer.backend_tokenizer, False).non_speech_tokens
    pieces = zip(found, tokenizer.convert_ids_to_tokens(list(found)), strict=True)
    return [index for index, piece in pieces if len(piece) > 1 or piece in string.punctuation]


def _blank_ids(tokenizer: WhisperTokenizer) -> list[int]:
    """Return the ids of the blank, which no text begins with (SuppressBlank of openai/whisper, whisper/decoding.py).

    Empty for a small vocabulary that lacks letters with a leading blank: there " S" begins with the blank.
    """
    letters = tokenizer([f" {letter}" for letter in string.ascii_letters], add_special_tokens=False).input_ids
    return tokenizer(" ", add_special_tokens=False).input_ids if all(len(ids) == 1 for ids in letters) else []


def _language_tokens(tokenizer: WhisperTokenizer) -> dict[str, int]:
    return {language_token(tokenizer, code): index for code, index in language_ids(tokenizer).items()}


def complete_generation_config(
    model: WhisperForConditionalGeneration,
    tokenizer: WhisperTokenizer,
    languages: Sequence[str] = (),
    tasks: Sequence[str] = (),
) -> None:
    """Complete the model's generation config, and remove what does not match the model.

    Ids of special tokens, languages and tasks are the tokenizer's. Other valid values are kept, except
    `forced_decoder_ids`: it overrides language detection, and transformers warns about it at every call.

    Args:
        model: a Whisper model; its configurations change in place.
        tokenizer: the model's.
        languages: codes of the languages that the model was trained on, empty if unknown. A single one becomes the
            default of `generate`: detection would choose among all languages that Whisper knows
            (https://github.com/huggingface/transformers/issues/21937).
        tasks: the tasks that it was trained on, likewise; the default is `transcribe` if there are both.
    """
    config, defaults = model.generation_config, make_generation_config(tokenizer, model.config)
    # transformers marks a config that it derives from config.json, for lack of a generation_config.json, and ignores a
    # saved config with that mark.
    config._from_model_config = False
    for holder in (config, model.config):
        if hasattr(holder, "forced_decoder_ids"):
            del holder.forced_decoder_ids
        for key, value in special_token_ids(tokenizer).items():
            setattr(holder, key, value)
    config.no_timestamps_token_id = defaults.no_timestamps_token_id
    config.prev_sot_token_id = defaults.prev_sot_token_id
    _keep_valid(config, defaults, model.config)
    config.is_multilingual = defaults.is_multilingual and getattr(config, "is_multilingual", None) is not False
    if not config.is_multilingual:
        for key in {"lang_to_id", "task_to_id", "language", "task"} & vars(config).keys():
            delattr(config, key)  # `generate` rejects language and task for such a model
        return
    vocabulary, own = tokenizer.get_vocab(), getattr(config, "lang_to_id", None)
    config.language = getattr(config, "language", None)
    listed = {token: index for token, index in _items(own) if vocabulary.get(token) == index}
    added = new_languages(tokenizer)
    new = {token: index for token, index in defaults.lang_to_id.items() if token.strip("<|>") in added}
    config.lang_to_id, config.task_to_id = (listed or defaults.lang_to_id) | new, defaults.task_to_id
    # No text has the token of a new language, but with timestamps, any id after the first time token would be allowed.
    config.suppress_tokens = sorted({*config.suppress_tokens, *new.values()})
    if languages or not {str(config.language), f"<|{config.language}|>"} & config.lang_to_id.keys():
        config.language = asked_language(tokenizer, languages[0]) if len(languages) == 1 else None
    if tasks or getattr(config, "task", None) not in TASKS:
        config.task = tasks[0] if len(tasks) == 1 else TASKS[0]


def asked_language(tokenizer: WhisperTokenizer, language: str) -> str:
    """Return the language argument of transformers' `generate`: Whisper's code, or the token of a new language."""
    token = language_token(tokenizer, language)
    return token if token.strip("<|>") in new_languages(tokenizer) else token.strip("<|>")


def _items(value: object) -> Iterable[tuple[str, int]]:
    return value.items() if isinstance(value, dict) else ()


def _keep_valid(config: GenerationConfig, defaults: GenerationConfig, sizes: WhisperConfig) -> None:
    """Replace missing or mistyped values of a generation config by `defaults`; drop what the model does not have."""

    def is_id(value: object) -> bool:
        return type(value) is int and 0 <= value < sizes.vocab_size

    def is_head(value: object) -> bool:
        pair = value if isinstance(value, (list, tuple)) and all(type(part) is int for part in value) else ()
        return len(pair) == 2 and 0 <= pair[0] < sizes.decoder_layers and 0 <= pair[1] < sizes.decoder_attention_heads

    for key, is_valid in (("suppress_tokens", is_id), ("begin_suppress_tokens", is_id), ("alignment_heads", is_head)):
        values = getattr(config, key, None)
        valid = [value for value in values if is_valid(value)] if isinstance(values, list) else None
        if valid is None or (values and not valid) or (is_valid is is_head and not valid):
            valid = getattr(defaults, key)
        elif len(valid) < len(values):
            count = f"{len(values) - len(valid)} of {len(values)}"
            print(f"generation config: {count} {key} are not in the model and were dropped")
        setattr(config, key, valid)
    if not 0 < _as_int(config.max_length) <= sizes.max_target_positions:
        config.max_length = defaults.max_length
    if _as_int(getattr(config, "max_initial_timestamp_index", None)) < 0:
        config.max_initial_timestamp_index = defaults.max_initial_timestamp_index
    if not isinstance(getattr(config, "return_timestamps", None), bool):
        config.return_timestamps = defaults.return_timestamps


def _as_int(value: object) -> int:
    return value if type(value) is int else -1


def generate(
    model: WhisperForConditionalGeneration, features: torch.Tensor, prompts: list[list[int]], **options: object
) -> list[list[int]]:
    """Return the ids after the prompt, without the end token, for features (batch, mel bins, frames).

    Whisper's own `generate` is not used: it pads every input to 30 s, and with zeros
    (WhisperGenerationMixin._get_input_segment), which is a loud value here.

    Args:
        model: a model on the device of the features.
        features: at most 3,000 frames.
        prompts: the ids that the decoder starts from, one prompt per input and all of the same length.
        options: options of transformers' generate; greedy by default.
    """
    prompt = torch.tensor(prompts, device=features.device)
    rows = GenerationMixin.generate(
        model,
        features,
        decoder_input_ids=prompt,
        # Whisper masks nothing; without this, transformers warns that it can't tell what is padding.
        attention_mask=torch.ones_like(features[:, 0], dtype=torch.long),
        **{"num_beams": 1, "do_sample": False, "max_length": None, **options},
    )
    end = model.generation_config.eos_token_id
    ids = [row[prompt.shape[1] :].tolist() for row in rows]
    return [row[: row.index(end)] if end in row else row for row in ids]
