"""What a training records is what it was given."""

from lhotse import CutSet
from transformers import Seq2SeqTrainingArguments

from whisper_recipe.model.adapters import LoraOptions
from whisper_recipe.training.batches import BatchOptions, load_cuts
from whisper_recipe.training.record import training_record


def test_the_share_of_cuts_with_times_is_recorded(corpus, tmp_path):
    cuts = list(load_cuts([corpus]))
    for cut in cuts[:3]:  # a quarter
        cut.supervisions[0].custom["segments"] = [{"start": 0.0, "end": 0.5, "text": "turn"}]
    given = "x", [corpus], CutSet.from_cuts(cuts), "full", LoraOptions()
    arguments = Seq2SeqTrainingArguments(str(tmp_path))
    shares = {share: training_record(*given, BatchOptions(timestamps=share), arguments) for share in (0.0, 0.5, 1.0)}
    assert {share: record["timestamps"] for share, record in shares.items()} == {0.0: 0.0, 0.5: 0.125, 1.0: 0.25}


def test_data_are_counted_per_language_and_task(corpus, tmp_path):
    arguments = Seq2SeqTrainingArguments(str(tmp_path), learning_rate=3e-4, gradient_accumulation_steps=2)
    batches = BatchOptions(max_duration=50)
    record = training_record(
        "openai/whisper-tiny", [corpus], load_cuts([corpus]), "full", LoraOptions(), batches, arguments
    )
    # The corpus has 0.6 to 2.8 s in steps of 0.2 s; Chinese are the second, sixth and tenth.
    assert record["data"] == [
        {"language": "en", "task": "transcribe", "utterances": 9, "hours": round((20.4 - 4.8) / 3600, 4)},
        {"language": "zh", "task": "transcribe", "utterances": 3, "hours": round(4.8 / 3600, 4)},
    ]
    assert record["base_model"] == "openai/whisper-tiny"
    assert (record["learning_rate"], record["batch_seconds"]) == (3e-4, 100)
    assert record["natural_length"] and not record["timestamps"]
    assert "lora" not in record
