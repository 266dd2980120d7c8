"""Search options: both backends obey each of them, in the same way, and as Whisper's own programs do."""

import subprocess
import sys

import ctranslate2
import pytest
import torch
from faster_whisper.transcribe import get_compression_ratio
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from whisper_recipe.decoding.backends import load_backend
from whisper_recipe.decoding.backends.ctranslate2 import CTranslate2Backend
from whisper_recipe.decoding.backends.transformers import TransformersBackend
from whisper_recipe.decoding.search import SearchOptions, is_rejected, search_prompt
from whisper_recipe.errors import RecipeError
from whisper_recipe.text.prompt import prompt_ids


@pytest.fixture(scope="module")
def backends(tiny_model, ct2_model):
    return TransformersBackend(tiny_model, "default"), CTranslate2Backend(ct2_model, "default")


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return WhisperProcessor.from_pretrained(tiny_model).tokenizer


@pytest.fixture(scope="module")
def features():
    return torch.randn(4, 80, 300, generator=torch.Generator().manual_seed(2)).clamp(-1, 1.5)


def run(backend, features, search, language="en"):
    prompt = search_prompt(backend.tokenizer, language, "transcribe", search)
    return backend.decode(features, [prompt] * len(features), search)


@pytest.mark.parametrize(
    "options",
    [
        {"beam_size": 4},
        {"suppress_blank": False},
        {"suppress_tokens": []},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 3},
        {"repetition_penalty": 1.5},
        {"prompt": "the light in the kitchen"},
        {"hotwords": "cocina", "prompt": "set 29"},
        {"hotwords": "cocina", "no_repeat_ngram_size": 1, "repetition_penalty": 1.2},
    ],
)
def test_backends_obey_an_option_alike(backends, features, options):
    theirs, ours = (run(backend, features, SearchOptions(max_new_tokens=40, **options)) for backend in backends)
    assert ours == theirs


@pytest.mark.parametrize("backend", [0, 1], ids=["transformers", "ct2"])
def test_what_is_suppressed_is_not_written(backends, features, backend):
    backend = backends[backend]
    before = {token for row in run(backend, features, SearchOptions(max_new_tokens=20)) for token in row}
    after = run(backend, features, SearchOptions(max_new_tokens=20, suppress_tokens=[-1, *before]))
    assert before
    assert before.isdisjoint(token for row in after for token in row)


@pytest.mark.parametrize("backend", [0, 1], ids=["transformers", "ct2"])
def test_no_ngram_is_written_twice_and_the_prompt_does_not_count(backends, features, backend):
    backend, size = backends[backend], 2
    free = run(backend, features, SearchOptions(max_new_tokens=60))
    guarded = run(backend, features, SearchOptions(max_new_tokens=60, no_repeat_ngram_size=size))

    def pairs(row):
        return list(zip(row, row[1:], strict=False))

    assert any(len(pairs(row)) > len(set(pairs(row))) for row in free)
    assert all(len(pairs(row)) == len(set(pairs(row))) for row in guarded)
    # What a prompt says may be said again: the same text as prompt, then as hypothesis.
    prompt = prompt_ids(backend.tokenizer, "en", "transcribe")
    start = backend.tokenizer.convert_tokens_to_ids("<|startofprev|>")
    echo = [[start, *guarded[0], *prompt]]
    search = SearchOptions(max_new_tokens=60, no_repeat_ngram_size=1)
    assert set(backend.decode(features[:1], echo, search)[0]) & set(guarded[0])


def test_a_blank_beginning_is_what_the_model_folder_says(backends, features, tokenizer):
    for backend in backends:
        forced = [token for token in range(len(tokenizer)) if token != tokenizer.eos_token_id]
        search = {"max_new_tokens": 5, "suppress_tokens": forced}  # nothing is left to write but the end
        assert run(backend, features[:1], SearchOptions(**search, suppress_blank=False)) == [[]]


def test_the_prompt_is_that_of_transformers_with_hotwords_before_it(tiny_model, tokenizer):
    processor = WhisperProcessor.from_pretrained(tiny_model)
    search = SearchOptions(prompt=" the light  ")
    theirs = [*processor.get_prompt_ids("the light", return_tensors=None), *prompt_ids(tokenizer, "zh", "translate")]
    assert search_prompt(tokenizer, "zh", "translate", search) == list(theirs)
    both = search_prompt(tokenizer, "zh", "translate", SearchOptions(prompt="the light", hotwords="cocina, 星期一"))
    assert tokenizer.decode(both) == (
        "<|startofprev|> cocina, 星期一 the light<|startoftranscript|><|zh|><|translate|><|notimestamps|>"
    )


def test_a_prompt_without_room_is_refused(tokenizer):
    # 448 positions: 224 for the hypothesis, 4 for the task, 1 for <|startofprev|>; in any case half less one.
    word = tokenizer(" the", add_special_tokens=False).input_ids
    for room, max_new_tokens in ((219, 224), (223, 100)):
        fits, too_long = (" the" * (count // len(word)) for count in (room, room + len(word)))
        search_prompt(tokenizer, "en", "transcribe", SearchOptions(prompt=fits, max_new_tokens=max_new_tokens))
        with pytest.raises(RecipeError, match=f"there is room for {room}"):
            search_prompt(tokenizer, "en", "transcribe", SearchOptions(prompt=too_long, max_new_tokens=max_new_tokens))


def test_the_prompt_is_read_as_whispers_own_generate_reads_it(tiny_model, tokenizer):
    folder, text = tiny_model, "the light in the kitchen"
    features = torch.randn(2, 80, 3000, generator=torch.Generator().manual_seed(3)).clamp(-1, 1.5)
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    timestamps = range(model.generation_config.no_timestamps_token_id + 1, len(tokenizer))
    # A timestamp would begin a segment there, and other special tokens are no text to compare.
    quiet = sorted({*timestamps, *tokenizer.all_special_ids} - {tokenizer.eos_token_id})
    previous = WhisperProcessor.from_pretrained(folder).get_prompt_ids(text, return_tensors="pt")
    options = {"language": "en", "task": "transcribe", "max_new_tokens": 20, "num_beams": 1, "suppress_tokens": quiet}
    theirs = model.generate(features, prompt_ids=previous, **options)
    without = model.generate(features, **options)
    search = SearchOptions(max_new_tokens=20, prompt=text, suppress_tokens=quiet)
    ours = run(load_backend(folder), features, search)
    decoded = [tokenizer.decode(row, skip_special_tokens=True) for row in (*ours, *theirs, *without)]
    assert [text.strip() for text in decoded[:2]] == [text.strip() for text in decoded[2:4]]
    assert decoded[2:4] != decoded[4:6]


@pytest.mark.parametrize("options", [{}, {"beam_size": 3}, {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}])
def test_scores_of_the_backends_agree(backends, features, options):
    if options.get("beam_size"):  # of beams the backends would have to find the same ones first
        assert run(backends[0], features, SearchOptions(**options)) == run(
            backends[1], features, SearchOptions(**options)
        )
    search = SearchOptions(max_new_tokens=12, **options)
    prompts = [prompt_ids(backends[0].tokenizer, "en", "transcribe")] * 4
    theirs, ours = (backend._search(features, prompts, search, 0.0, scored=True) for backend in backends)
    assert [row.ids for row in ours] == [row.ids for row in theirs]
    assert [row.average_logprob for row in ours] == pytest.approx([row.average_logprob for row in theirs], abs=1e-4)


def test_a_score_is_the_average_that_transformers_own_scores_give(tiny_model, backends, features):
    search = SearchOptions(max_new_tokens=12)
    prompts = [prompt_ids(backends[0].tokenizer, "en", "transcribe")]
    ours = backends[0]._search(features[:1], prompts, search, 0.0, scored=True)[0]
    thirty = torch.full((1, 80, 3000), -1.0)
    thirty[:, :, :300] = features[:1]
    ours = backends[0]._search(thirty, prompts, search, 0.0, scored=True)[0]
    model = WhisperForConditionalGeneration.from_pretrained(tiny_model)
    found = model.generate(
        thirty, language="en", max_new_tokens=12, return_dict_in_generate=True, output_scores=True,
        suppress_tokens=model.generation_config.suppress_tokens,
    )  # fmt: skip
    scores = torch.stack(found["scores"], 1).log_softmax(-1)[0]
    total = sum(scores[step, token].item() for step, token in enumerate(ours.ids))
    assert ours.average_logprob == pytest.approx(total / (len(ours.ids) + 1), abs=1e-4)


@pytest.mark.parametrize("backend", [0, 1], ids=["transformers", "ct2"])
def test_only_utterances_that_fail_are_decoded_at_the_next_temperature(backends, features, backend):
    backend, prompts = backends[backend], [prompt_ids(backends[0].tokenizer, "en", "transcribe")] * 4
    greedy = backend._search(features, prompts, SearchOptions(max_new_tokens=12), 0.0, scored=True)
    scores = sorted(row.average_logprob for row in greedy)
    middle = (scores[1] + scores[2]) / 2
    search = SearchOptions(
        max_new_tokens=12, temperatures=[0.0, 1.0], logprob_threshold=middle, compression_ratio_threshold=100
    )
    found = backend.decode(features, prompts, search)
    assert [row == before.ids for row, before in zip(found, greedy, strict=True)] == [
        before.average_logprob > middle for before in greedy
    ]
    everything = SearchOptions(max_new_tokens=12, temperatures=[0.0, 1.0], logprob_threshold=0.0)
    assert all(
        row != before.ids for row, before in zip(backend.decode(features, prompts, everything), greedy, strict=True)
    )


def test_a_hypothesis_fails_by_whispers_thresholds():
    loop, text = ("no no no " * 30).strip(), "turn on the light in the kitchen"
    assert get_compression_ratio(loop) > 2.4 > get_compression_ratio(text)  # faster-whisper's, which is Whisper's
    assert is_rejected(loop, -0.1, SearchOptions())
    assert not is_rejected(text, -0.99, SearchOptions())
    assert is_rejected(text, -1.01, SearchOptions())
    ratio = get_compression_ratio(loop)
    assert is_rejected(loop, -0.1, SearchOptions(compression_ratio_threshold=ratio - 0.01))
    assert not is_rejected(loop, -0.1, SearchOptions(compression_ratio_threshold=ratio + 0.01))
    assert not is_rejected("", -0.1, SearchOptions())


def test_backends_detect_the_language_that_transformers_detects(tiny_model, backends, tokenizer):
    features = torch.randn(6, 80, 3000, generator=torch.Generator().manual_seed(4)).clamp(-1, 1.5)
    model = WhisperForConditionalGeneration.from_pretrained(tiny_model)
    theirs = [token.strip("<|>") for token in tokenizer.convert_ids_to_tokens(model.detect_language(features).tolist())]
    assert [backend.detect_languages(features) for backend in backends] == [theirs, theirs]
    short = features[:, :, :200]
    assert backends[0].detect_languages(short) == backends[1].detect_languages(short)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"prompt": "the light", "no_repeat_ngram_size": 2}])
def test_an_assistant_does_not_change_the_hypotheses(tiny_model, features, transcripts, tmp_path, options):
    from tests.conftest import make_model

    small = make_model(tmp_path / "small", transcripts, encoder_layers=1, decoder_layers=1, d_model=16, seed=3)
    search = SearchOptions(max_new_tokens=30, **options)
    plain = run(TransformersBackend(tiny_model, "default"), features, search)
    for assistant in (small, tiny_model):
        assert run(TransformersBackend(tiny_model, "default", str(assistant)), features, search) == plain


def test_what_a_backend_can_not_do_is_one_clear_line(tiny_model, ct2_model, transcripts, tmp_path, features):
    from tests.conftest import make_model

    with pytest.raises(RecipeError, match="does not support speculative decoding"):
        load_backend(ct2_model, assistant_model=str(tiny_model))
    other = make_model(tmp_path / "other", transcripts, bpe_size=280)
    with pytest.raises(RecipeError, match="vocabulary differs from the model's"):
        load_backend(tiny_model, assistant_model=str(other))
    with pytest.raises(RecipeError, match="transformers can't compute in int8"):
        load_backend(tiny_model, "int8")
    possible = ctranslate2.get_supported_compute_types("cuda" if ctranslate2.get_cuda_device_count() else "cpu")
    for impossible in {"float16", "int8_float16", "bfloat16", "int7"} - possible:
        with pytest.raises(RecipeError, match=f"can't compute in {impossible} on this .* use one of: default, .*int8"):
            load_backend(ct2_model, impossible)
    for backend in (load_backend(tiny_model), load_backend(ct2_model)):
        with pytest.raises(RecipeError, match="the model has no token 99999"):
            run(backend, features, SearchOptions(suppress_tokens=[99999]))


@pytest.mark.parametrize(
    "options",
    [
        {"beam_size": 0},
        {"max_new_tokens": 225},
        {"temperatures": []},
        {"temperatures": [0.4, 0.2]},
        {"temperatures": [-0.1]},
        {"suppress_tokens": [-2]},
        {"no_repeat_ngram_size": -1},
        {"repetition_penalty": 0.0},
    ],
)
def test_impossible_search_options_are_refused_by_name(options):
    with pytest.raises(RecipeError, match=f"search.{next(iter(options))}"):
        SearchOptions(**options)


@pytest.mark.slow
def test_a_backend_leaves_its_threads_to_the_next(ct2_model):
    """In a process that imports PyTorch first, CTranslate2 sets its threads too."""
    code = """
import sys, torch
from whisper_recipe.decoding.backends import load_backend
torch.set_num_threads(2)
for _ in range(2):
    backend = load_backend(sys.argv[1], parallel=4)
    print(backend.workers, *backend.each(lambda _: torch.get_num_threads(), range(3)), torch.get_num_threads())
"""
    done = subprocess.run([sys.executable, "-c", code, ct2_model], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["2 1 1 1 2"] * 2
