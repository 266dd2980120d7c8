"""What only a GPU can show; run by tools/gpu_check.sh. Without a GPU these tests are skipped."""

import pytest
import torch
from transformers import Seq2SeqTrainingArguments

from whisper_recipe.errors import is_out_of_memory
from whisper_recipe.model.load import load_model, load_tokenizer
from whisper_recipe.model.precision import pick_decoding_precision, pick_precision, use_tf32
from whisper_recipe.training.batches import BatchOptions, load_cuts
from whisper_recipe.training.options import set_precision, use_one_gpu
from whisper_recipe.training.parameters import ParameterOptions
from whisper_recipe.training.trainer import WhisperTrainer, make_loaders

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture(autouse=True)
def _float32_as_it_was():
    precision, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = convolutions


def logits(model, device, precision=torch.float32):
    """Of the same noise and tokens."""
    features = torch.randn(3, 80, 500, generator=torch.Generator().manual_seed(2)).clamp(-1, 1.5)
    model = model.eval().to(device, precision)
    with torch.inference_mode():
        ids = torch.arange(20, device=device).repeat(3, 1)
        return model(features.to(device, precision), decoder_input_ids=ids).logits.float().cpu()


@pytest.mark.parametrize(
    ("precision", "most"), [("float32", 1e-4), ("tf32", 5e-3), ("float16", 5e-3), ("bfloat16", 5e-2)]
)
def test_the_decoder_says_the_same_in_all_precisions(tiny_model, precision, most):
    expected = logits(load_model(tiny_model), "cpu")
    if precision == "tf32":
        use_tf32()
        precision = "float32"
    found = logits(load_model(tiny_model), "cuda", getattr(torch, precision))
    assert (found - expected).norm() < most * expected.norm()


def test_real_weights_write_the_same_text_in_half_precision(whisper_base, shared_data):
    import soundfile

    from whisper_recipe.data.features import collate_fbank, log_mel
    from whisper_recipe.decoding.backends.transformers import TransformersBackend
    from whisper_recipe.decoding.search import SearchOptions, search_prompt

    paths = sorted(shared_data.rglob("*.flac"))[:4] or pytest.skip("no FLAC files there")
    samples = [torch.from_numpy(soundfile.read(path, dtype="float32", frames=16000 * 20)[0]) for path in paths]
    features, texts = collate_fbank([log_mel(row, 80) for row in samples], 3000), []
    for compute_type in ("float32", "float16", "bfloat16"):
        backend = TransformersBackend(whisper_base, compute_type)
        search = SearchOptions(max_new_tokens=60)
        prompts = [search_prompt(backend.tokenizer, "en", "transcribe", search)] * len(paths)
        texts.append(backend.decode(features, prompts, search))
    assert texts[1] == texts[0]
    assert sum(map(len, texts[2])) == pytest.approx(sum(map(len, texts[0])), rel=0.1)


def test_precisions_follow_the_card():
    is_new = torch.cuda.get_device_capability() >= (8, 0)  # Ampere
    assert pick_precision("cuda") == (torch.bfloat16 if is_new else torch.float32)
    assert pick_decoding_precision("cuda") == torch.float16


def test_a_process_uses_one_gpu_of_several(tmp_path, capsys):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    args = Seq2SeqTrainingArguments(str(tmp_path), report_to="none")
    assert args.n_gpu > 1
    use_one_gpu(args)
    assert args.n_gpu == 1 and "accelerate launch --multi_gpu" in capsys.readouterr().out


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_with_a_nan_gradient_changes_nothing(corpus, tiny_model, tmp_path, precision):
    chosen = {} if precision == "fp32" else {precision: True}
    args = Seq2SeqTrainingArguments(
        str(tmp_path),
        report_to="none",
        max_steps=3,
        learning_rate=0.01,
        save_strategy="no",
        disable_tqdm=True,
        **chosen,
    )
    cuts, model = load_cuts([corpus]), load_model(tiny_model)
    loaders = make_loaders(cuts, cuts, load_tokenizer(tiny_model), BatchOptions(num_workers=0, max_cuts=2), 80, args)
    run = WhisperTrainer(model, args, *loaders, ParameterOptions())
    weight = model.model.decoder.layers[0].fc1.weight
    weight.register_hook(lambda gradient: gradient * (float("nan") if run.state.global_step == 1 else 1))
    run.train()
    assert run.skipped >= 1  # float16's own scaler may skip more
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_training_is_in_bfloat16_where_the_card_has_it(tmp_path):
    args = Seq2SeqTrainingArguments(str(tmp_path), report_to="none")
    set_precision(args)
    assert args.bf16 == (pick_precision("cuda") == torch.bfloat16)


def test_cublas_out_of_memory_is_recognised():
    free, _ = torch.cuda.mem_get_info()
    held = []
    with pytest.raises(RuntimeError) as caught:
        held.append(torch.empty(free - (60 << 20), dtype=torch.uint8, device="cuda"))
        while True:  # each stream has a handle of cuBLAS with a workspace of its own
            with torch.cuda.stream(torch.cuda.Stream()):
                held.append(torch.ones(64, 64, device="cuda") @ torch.ones(64, 64, device="cuda"))
                held.append(torch.empty(4 << 20, dtype=torch.uint8, device="cuda"))
    held.clear()
    torch.cuda.empty_cache()
    assert is_out_of_memory(caught.value)
