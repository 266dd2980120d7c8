"""Generation of texts for inputs of any length, and the generation config, without which `generate` guesses."""

from __future__ import annotations

import torch
from transformers import GenerationConfig, GenerationMixin, WhisperForConditionalGeneration, WhisperTokenizer

from whisper_recipe.languages import LANGUAGES
from whisper_recipe.tasks import TASKS
from whisper_recipe.text.prompt import MAX_TOKENS
from whisper_recipe.text.tokenizer import END_OF_TEXT, NO_TIMESTAMPS, START_OF_TRANSCRIPT


def special_token_ids(tokenizer: WhisperTokenizer) -> dict[str, int]:
    """Return the ids of the tokens that a text starts from and ends with, under transformers' names."""
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    start = tokenizer.convert_tokens_to_ids(START_OF_TRANSCRIPT)
    return {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}


def make_generation_config(tokenizer: WhisperTokenizer, decoder_layers: int, attention_heads: int) -> GenerationConfig:
    """Return what `generate` needs to know of a multilingual Whisper, with the keys of OpenAI's folders on the hub."""
    ids = tokenizer.convert_tokens_to_ids
    languages = [f"<|{code}|>" for code in LANGUAGES if f"<|{code}|>" in tokenizer.get_vocab()]
    # OpenAI's multilingual tokenizers name it <|nocaptions|> before large-v3.
    no_speech = {"<|nospeech|>", "<|nocaptions|>"} & tokenizer.get_vocab().keys()
    upper = range(decoder_layers // 2, decoder_layers)
    return GenerationConfig(
        **special_token_ids(tokenizer),
        lang_to_id={token: ids(token) for token in languages},
        task_to_id={task: ids(f"<|{task}|>") for task in TASKS},
        # OpenAI's folders force this token's id by place (`forced_decoder_ids`), which transformers 5 gives up; with
        # neither, `generate` without arguments leaves the task out of the prompt.
        task=TASKS[0],
        no_timestamps_token_id=ids(NO_TIMESTAMPS),
        prev_sot_token_id=ids("<|startofprev|>"),
        is_multilingual=True,
        return_timestamps=False,
        max_length=MAX_TOKENS,
        max_initial_timestamp_index=50,
        # Tokens that never are text; as in OpenAI's folders, which also keep some punctuation out.
        suppress_tokens=sorted(
            {ids(START_OF_TRANSCRIPT), ids("<|startoflm|>"), ids("<|startofprev|>"), *map(ids, no_speech)}
            | {ids(f"<|{task}|>") for task in TASKS}
        ),
        begin_suppress_tokens=[ids(END_OF_TEXT)],
        # All heads of the upper half, as CTranslate2 takes them where a model names none.
        alignment_heads=[[layer, head] for layer in upper for head in range(attention_heads)],
    )


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
    default = make_generation_config(tokenizer, model.config.decoder_layers, model.config.decoder_attention_heads)
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
