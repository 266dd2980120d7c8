"""Generation of texts for inputs of any length, and the generation config, without which `generate` guesses."""

from __future__ import annotations

import torch
from transformers import (
    GenerationConfig,
    GenerationMixin,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from whisper_recipe.languages import LANGUAGES
from whisper_recipe.model.alignment_heads import alignment_heads
from whisper_recipe.tasks import TASKS
from whisper_recipe.text.prompt import no_speech_id
from whisper_recipe.text.tokenizer import (
    END_OF_TEXT,
    ENGLISH_VOCAB_SIZE,
    NO_TIMESTAMPS,
    START_OF_PREVIOUS,
    START_OF_TRANSCRIPT,
)


def special_token_ids(tokenizer: WhisperTokenizer) -> dict[str, int]:
    """Return the ids of the tokens that a text starts from and ends with, under transformers' names."""
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    start = tokenizer.convert_tokens_to_ids(START_OF_TRANSCRIPT)
    return {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}


def is_multilingual(tokenizer: WhisperTokenizer) -> bool:
    """Whether a model of this tokenizer knows languages and tasks; OpenAI's tiny.en to medium.en don't.

    Their tokenizer has tokens of languages too, which were never trained. It has one text token less.
    """
    return len(tokenizer) != ENGLISH_VOCAB_SIZE and bool(_language_ids(tokenizer))


def make_generation_config(tokenizer: WhisperTokenizer, config: WhisperConfig, name: str = "") -> GenerationConfig:
    """Return what `generate` needs to know of a Whisper model, with the keys and values of OpenAI's folders on the hub.

    Args:
        tokenizer: the model's; it decides whether the model is multilingual.
        config: the model's; it decides which attention heads give word times.
        name: OpenAI's name of the model where it is known, see `alignment_heads`.
    """
    from faster_whisper.tokenizer import Tokenizer

    ids = tokenizer.convert_tokens_to_ids
    multilingual = is_multilingual(tokenizer)
    options = {}
    if multilingual:
        options = {
            "lang_to_id": _language_ids(tokenizer),
            "task_to_id": {task: ids(f"<|{task}|>") for task in TASKS},
            # OpenAI's folders force this token's id by place (`forced_decoder_ids`), which transformers 5 gives up;
            # with neither, `generate` without arguments leaves the task out of the prompt.
            "task": TASKS[0],
        }
    # OpenAI's rule, by which no speaker tags and marks of sounds are written: ( SPEAKING FOREIGN LANGUAGE ).
    non_speech = Tokenizer(tokenizer.backend_tokenizer, False).non_speech_tokens
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
        suppress_tokens=sorted({*non_speech, *map(ids, special), no_speech_id(tokenizer)}),
        # No text begins with a blank or the end (SuppressBlank of openai/whisper, whisper/decoding.py).
        begin_suppress_tokens=[*tokenizer(" ", add_special_tokens=False).input_ids, ids(END_OF_TEXT)],
        alignment_heads=alignment_heads(config, multilingual, name),
    )


def _language_ids(tokenizer: WhisperTokenizer) -> dict[str, int]:
    vocabulary = tokenizer.get_vocab()
    return {token: vocabulary[token] for code in LANGUAGES if (token := f"<|{code}|>") in vocabulary}


def complete_generation_config(
    model: WhisperForConditionalGeneration, tokenizer: WhisperTokenizer, languages: list[str], tasks: list[str]
) -> None:
    """Give the model's generation config what it lacks, and take from it what transformers 5 has given up.

    What stands there already is kept, except `forced_decoder_ids`: it wins over language detection, and transformers
    warns of it at every call.

    Args:
        model: a Whisper model; its configurations change in place.
        tokenizer: the model's.
        languages: codes of the languages that the model was trained on, none where it is not known. One alone becomes
            what `generate` takes where it is not told the language: detection would choose among all that Whisper knows
            (https://github.com/huggingface/transformers/issues/21937).
        tasks: the tasks that it was trained on; likewise, and `transcribe` where there are both.
    """
    config = model.generation_config
    for holder in (config, model.config):
        if hasattr(holder, "forced_decoder_ids"):
            del holder.forced_decoder_ids
    if getattr(config, "is_multilingual", True) is False:  # `generate` refuses language and task of such a model
        return
    default = make_generation_config(tokenizer, model.config)
    for key, value in default.to_diff_dict().items():
        if getattr(config, key, None) is None:
            setattr(config, key, value)
    if languages:  # also to take away what the base model had here
        config.language = languages[0] if len(languages) == 1 else None
    if tasks:
        config.task = tasks[0] if len(tasks) == 1 else TASKS[0]


def generate(
    model: WhisperForConditionalGeneration, features: torch.Tensor, prompts: list[list[int]], **options: object
) -> list[list[int]]:
    """Return the ids after the prompt, without the end, for features (batch, mel bins, frames).

    Not by Whisper's own `generate`: that pads every input to 30 s, and with zeros
    (WhisperGenerationMixin._get_input_segment), which is a loud value here.

    Args:
        model: on the device of the features.
        features: of at most 3,000 frames.
        prompts: what the decoder starts from, one for each of the batch and all of one length.
        options: of transformers' generate; greedy where there are none.
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
