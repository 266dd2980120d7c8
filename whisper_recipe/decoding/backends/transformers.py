"""Decoding with transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitNormalization,
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    WhisperForConditionalGeneration,
    WhisperTimeStampLogitsProcessor,
)
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from whisper_recipe.decoding.backends.base import SEED, Backend, Hypothesis, not_multilingual, own_gpu
from whisper_recipe.decoding.search import SearchOptions, suppressed_ids
from whisper_recipe.errors import RecipeError
from whisper_recipe.model.generation import complete_generation_config, generate
from whisper_recipe.model.load import load_model, pick_device
from whisper_recipe.model.precision import pick_decoding_precision
from whisper_recipe.text.prompt import no_speech_id
from whisper_recipe.text.tokenizer import END_OF_TEXT, START_OF_TRANSCRIPT, first_timestamp

MAX_INITIAL_TIMESTAMP_INDEX = 50  # the first segment begins within a second: the default of openai/whisper


class TransformersBackend(Backend):
    """Decoding with transformers, on the GPU if there is one."""

    name = "transformers"

    def __init__(self, folder: str | Path, compute_type: str, assistant_model: str | None = None) -> None:
        if compute_type not in ("default", "float32", "float16", "bfloat16"):
            raise RecipeError(
                f"transformers can't compute in {compute_type}",
                where="compute_type",
                cure="use float32, float16 or bfloat16, or an exported CTranslate2 folder",
            )
        super().__init__(folder)
        if torch.cuda.is_available():
            torch.cuda.set_device(own_gpu(torch.cuda.device_count()))
        usual = str(pick_decoding_precision(pick_device())).removeprefix("torch.")
        self.compute_type = usual if compute_type == "default" else compute_type
        self.model = self._load(folder)
        self.assistant = None
        if assistant_model:
            self.assistant = self._load(assistant_model)
            self.assistant.__class__ = _PlainGenerate
            if self.assistant.config.vocab_size != self.model.config.vocab_size:
                raise RecipeError(
                    "its vocabulary differs from the model's", where=assistant_model, cure="use another one"
                )
        self.device = str(self.model.device)
        self.num_mel_bins = self.model.config.num_mel_bins

    def _load(self, folder: str | Path) -> WhisperForConditionalGeneration:
        model = load_model(folder).to(pick_device(), getattr(torch, self.compute_type)).eval()
        complete_generation_config(model, self.tokenizer)
        return model

    @torch.inference_mode()
    def _detect_languages(self, features: torch.Tensor) -> list[str]:
        """See Backend."""
        if not getattr(self.model.generation_config, "lang_to_id", None):
            raise not_multilingual()
        ids = self.model.detect_language(features.to(self.model.device, self.model.dtype))
        return self.tokenizer.convert_ids_to_tokens(ids.tolist())

    @torch.inference_mode()
    def _search(
        self, features: torch.Tensor, prompts: list[list[int]], search: SearchOptions, temperature: float, scored: bool
    ) -> list[Hypothesis]:
        if self.assistant is not None and len(prompts) > 1:  # then transformers accepts one utterance at a time
            rows = zip(features.split(1), prompts, strict=True)
            return [self._search(row, [prompt], search, temperature, scored)[0] for row, prompt in rows]
        features = features.to(self.model.device, self.model.dtype)
        encoded = self.model.get_encoder()(features)
        states = encoded.last_hidden_state.split(1)  # `generate` repeats those in `encoded` for its beams
        rules = self._rules(search, prompts[0])
        torch.manual_seed(SEED)
        with self._no_speech_probs(prompts, search) as silence:
            ids = generate(
                self.model,
                features,
                prompts,
                encoder_outputs=encoded,
                num_beams=1 if temperature else search.beam_size,
                do_sample=temperature > 0,
                **({"temperature": temperature, "top_k": 0} if temperature else {}),
                max_new_tokens=search.max_new_tokens,
                # In `rules`, because scores must follow them too.
                suppress_tokens=None,
                begin_suppress_tokens=None,
                logits_processor=rules,
                assistant_model=self.assistant,
            )
        hypotheses = []
        for state, prompt, row, probability in zip(states, prompts, ids, silence, strict=True):
            average = 0.0
            if scored or probability > search.no_speech_threshold:
                average = self._average_logprob(state, prompt, row, rules, search.max_new_tokens)
            hypotheses.append(Hypothesis(row, average, probability))
        return hypotheses

    @contextmanager
    def _no_speech_probs(self, prompts: list[list[int]], search: SearchOptions) -> Iterator[list[float]]:
        """Note the probability of <|nospeech|> after each prompt's start token (whisper/decoding.py of openai/whisper).

        The first step of `generate` computes it anyway, so it costs no extra step. Zeros if the threshold disables it.
        """
        probabilities = [0.0] * len(prompts)
        if search.no_speech_threshold == 1:
            yield probabilities
            return
        start = self.tokenizer.convert_tokens_to_ids(START_OF_TRANSCRIPT)
        positions, no_speech = [prompt.index(start) for prompt in prompts], no_speech_id(self.tokenizer)

        def note(_model: nn.Module, _inputs: tuple, output: Seq2SeqLMOutput) -> None:
            hook.remove()
            first_beams = output.logits[:: len(output.logits) // len(prompts)]
            chosen = first_beams[range(len(prompts)), positions].float().softmax(-1)
            probabilities[:] = chosen[:, no_speech].tolist()

        hook = self.model.register_forward_hook(note)
        try:
            yield probabilities
        finally:
            hook.remove()

    def _rules(self, search: SearchOptions, prompt: list[int]) -> LogitsProcessorList:
        """Return the rules that forbid tokens or make them less likely; the prompt does not count as repeated."""
        config, device, start = self.model.generation_config, self.model.device, len(prompt)
        rules = LogitsProcessorList()
        if search.repetition_penalty != 1:
            rules.append(RepetitionPenaltyLogitsProcessor(search.repetition_penalty, prompt_ignore_length=start))
        if search.no_repeat_ngram_size:
            rules.append(_AfterPrompt(NoRepeatNGramLogitsProcessor(search.no_repeat_ngram_size), start))
        suppressed = suppressed_ids(search, config.suppress_tokens or [], self.model.config.vocab_size)
        if suppressed:
            rules.append(SuppressTokensLogitsProcessor(suppressed, device=device))
        if search.suppress_blank and config.begin_suppress_tokens:
            rules.append(SuppressTokensAtBeginLogitsProcessor(config.begin_suppress_tokens, start, device=device))
        no_timestamps = first_timestamp(self.tokenizer) - 1
        if prompt[-1] != no_timestamps:  # CTranslate2 applies the same rules in this case (src/models/whisper.cc)
            timed = GenerationConfig(
                eos_token_id=self.tokenizer.convert_tokens_to_ids(END_OF_TEXT),
                no_timestamps_token_id=no_timestamps,
                max_initial_timestamp_index=MAX_INITIAL_TIMESTAMP_INDEX,
            )
            rules.append(WhisperTimeStampLogitsProcessor(timed, begin_index=start))
        # openai/whisper and CTranslate2 compare beams by the probabilities renormalised after the rules.
        rules.append(LogitNormalization())
        return rules

    def _average_logprob(
        self, states: torch.Tensor, prompt: list[int], ids: list[int], rules: LogitsProcessorList, max_new_tokens: int
    ) -> float:
        """Return the average log-probability of a hypothesis as in openai/whisper: the end counts as a token.

        It is computed from the text afterwards: the scores of all steps, beams and tokens would fill the memory.
        """
        ended = len(ids) < max_new_tokens
        written = [*ids, self.model.generation_config.eos_token_id] if ended else ids
        row = torch.tensor([[*prompt, *written]], device=states.device)
        logits = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states), decoder_input_ids=row[:, :-1], use_cache=False
        ).logits.float()
        total = 0.0
        for position in range(len(prompt), row.shape[1]):
            scores = rules(row[:, :position], logits[:, position - 1])
            total += scores.log_softmax(-1)[0, row[0, position]].item()
        return total / (len(ids) + 1)


class _PlainGenerate(WhisperForConditionalGeneration):
    """An assistant that generates from inputs of any length, see TransformersBackend._search."""

    generate = GenerationMixin.generate


class _AfterPrompt(LogitsProcessor):
    """A processor that sees only the tokens after the prompt, which has `start` tokens."""

    def __init__(self, processor: LogitsProcessor, start: int) -> None:
        self.processor, self.start = processor, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return self.processor(input_ids[:, self.start :], scores)
