"""A model trained on cuts without speech gives no text for silence, noise and music."""

import json

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from whisper_recipe.cli import main
from whisper_recipe.data.fbank import fbank
from whisper_recipe.data.manifests import prepare

TEXT = "set 29 degrees"
SPEECH = ("tone", "voice")


def sound(kind, rng, seconds=1.0):
    """Return a second of a sound: tones stand for speech here, which a tiny model can learn to tell from the others."""
    time = np.arange(int(16000 * seconds)) / 16000
    noise = rng.standard_normal(len(time))
    chord = sum(np.sin(2 * np.pi * pitch * time * rng.uniform(0.99, 1.01)) for pitch in (2000, 2500, 3000, 3700))
    pitch = {"tone": 300, "voice": 400}.get(kind, 0) * rng.uniform(0.95, 1.05)
    waves = {"silence": 1e-3 * noise, "noise": noise, "music": chord}
    return 0.1 * waves.get(kind, np.sin(2 * np.pi * pitch * time) + 0.01 * noise)


def make_cuts(folder, name, count, seed):
    """A manifest of cuts of each kind, whose ids begin with it; those that are no speech have no text."""
    rng, data = np.random.default_rng(seed), folder / name
    data.mkdir(parents=True)
    keys = [f"{kind}{number:02d}" for kind in (*SPEECH, "silence", "noise", "music") for number in range(count)]
    for key in keys:
        soundfile.write(data / f"{key}.wav", sound(key[:-2], rng), 16000, subtype="PCM_16")
    (data / "wav.scp").write_text("".join(f"{key} {key}.wav\n" for key in keys))
    (data / "text").write_text("".join(f"{key} {TEXT}\n" for key in keys))
    (data / "utt2lang").write_text("".join(f"{key} en\n" for key in keys))
    prepare(data, folder / "manifests")
    fbank(name, folder / "manifests", folder / "fbank", num_jobs=1)
    cuts = list(CutSet.from_file(folder / "fbank" / f"cuts_{name}.jsonl.gz"))
    for cut in cuts:
        if not cut.id.startswith(SPEECH):
            cut.supervisions[0].text = ""
    CutSet.from_cuts(cuts).to_file(folder / f"{name}.jsonl.gz")
    return folder / f"{name}.jsonl.gz"


@pytest.mark.slow
def test_silence_noise_and_music_give_no_text(tiny_model, tmp_path):
    train, test = make_cuts(tmp_path, "train", 12, seed=0), make_cuts(tmp_path, "test", 4, seed=1)
    options = "--method full --trainer.max_steps 120 --trainer.learning_rate 0.003 --trainer.save_strategy no "
    options += "--trainer.report_to none --batches.num_workers 0 --batches.max_duration 30"
    given = f"--base_model {tiny_model} --train_cuts {train} --dev_cuts {test} --output_dir {tmp_path / 'exp'}"
    assert main(["train", *given.split(), *options.split()]) == 0
    texts = {}
    for threshold in ("0.6", "1"):
        out = tmp_path / f"decode_{threshold}"
        # What the model makes of no speech may be likely: <|nospeech|> alone decides.
        rule = ["--search.no_speech_threshold", threshold, "--search.logprob_threshold", "0"]
        assert main(["decode", str(tmp_path / "exp/model"), "--cuts", str(test), "--out", str(out), *rule]) == 0
        rows = map(json.loads, (out / "hyp.jsonl").read_text().splitlines())
        texts[threshold] = {row["id"]: row["text"] for row in rows}
    for key, text in texts["0.6"].items():
        assert text.strip() == (TEXT if key.startswith(SPEECH) else ""), key
    # Without the rule the language and task that are forced make it write something.
    assert any(text.strip() for key, text in texts["1"].items() if not key.startswith(SPEECH))
