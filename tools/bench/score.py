"""`whisper-recipe score` on 100,000 utterances with everything it writes, against jiwer called for each group.

    python tools/bench/score.py [--utterances 100000] [--rounds 3]

Both run on one core, read the same files and normalise with the same normalisers. The peer is what a user would write
with jiwer: one call with all pairs of a group, for the set, each language and task, each language, task, speaker and
range of durations. It has the rates of all groups, but no intervals, alignments, frequent errors, signs of
hallucination, BLEU, chrF, report or files.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

from measure import cost, report, spread

from whisper_recipe.files import write_jsonl

PEER = """
import collections, sys
import jiwer
from whisper_recipe.files import read_jsonl
from whisper_recipe.text.normalize import get_normalizer, is_counted_in_characters, text_language

hypotheses = {row["id"]: row["text"] for _, row in read_jsonl(sys.argv[2])}
groups = collections.defaultdict(lambda: ([], []))
for _, cut in read_jsonl(sys.argv[1]):
    supervision, duration = cut["supervisions"][0], cut["duration"]
    language, task = supervision["language"], supervision["custom"]["task"]
    normalize = get_normalizer("whisper", text_language(language, task))
    pair = [normalize(supervision["text"]), normalize(hypotheses[cut["id"]])]
    characters = is_counted_in_characters(language, task)
    if characters:
        pair = [text.replace(" ", "") for text in pair]
    range_of_durations = sum(duration >= edge for edge in (2, 5, 10, 20, 30))
    for group in ("all", (language, task), language, task, supervision["speaker"], range_of_durations):
        for texts, text in zip(groups[group, characters], pair):
            texts.append(text)
rates = {}
for (group, characters), (references, found) in groups.items():
    output = (jiwer.process_characters if characters else jiwer.process_words)(references, found)
    rates[group, characters] = output.cer if characters else output.wer
"""
CHINESE = "打开厨房的灯把温度设定到二十九度关闭客厅电视机明天早上七点叫我起床三月五号星期一天气怎么样"
ENGLISH = """
turn on the light in kitchen set temperature to twenty-nine degrees please switch off television living room tomorrow
morning wake me up at seven what's weather like next Monday and don't forget music louder Mr. Brown's colour window
garage door half past eight play something quiet while I am cooking dinner for friends
"""
KINDS = [("en", "transcribe"), ("zh", "transcribe"), ("es", "transcribe"), ("zh", "translate")]
SHARES = [50, 25, 15, 10]


def main() -> None:
    """Make the two lists, score both ways in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # inherited by the commands
    with tempfile.TemporaryDirectory() as folder:
        cuts, hypotheses = f"{folder}/cuts_test.jsonl", f"{folder}/hyp.jsonl"
        make_lists(cuts, hypotheses, options.utterances)
        commands = {
            "whisper-recipe score": (sys.executable, "-m", "whisper_recipe", "score", folder, "--ref", cuts),
            "jiwer for each group": (sys.executable, "-c", PEER, cuts, hypotheses),
        }
        costs = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                costs[name].append(cost(*command))
        megabytes = sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6
    peer = costs["jiwer for each group"]
    rows = [
        {
            "program": name,
            "seconds": spread([own.seconds for own in found]),
            "peak MB": f"{max(own.megabytes for own in found):.0f}",
            "seconds / jiwer's": spread(
                [own.seconds / other.seconds for own, other in zip(found, peer, strict=True)], 2
            ),
        }
        for name, found in costs.items()
    ]
    title = f"{options.utterances:,} utterances, one core, {options.rounds} rounds: median (range)"
    report(f"{title}; lists and results take {megabytes:.0f} MB", rows)


def make_lists(cuts: str, hypotheses: str, utterances: int) -> None:
    """Write references of 500 speakers, 5.7 s on average (as AISHELL's), and hypotheses with about 10 % errors."""
    draw = random.Random(0)
    references, found = [], []
    for number in range(utterances):
        language, task = draw.choices(KINDS, SHARES)[0]
        characters = language == "zh" and task == "transcribe"
        duration = min(30.0, draw.gammavariate(4, 5.7 / 4))
        units = draw.choices(
            CHINESE if characters else ENGLISH.split(), k=max(1, round(duration * (4 if characters else 2.5)))
        )
        space = "" if characters else " "
        text = space.join(units)
        supervision = {"text": text, "language": language, "speaker": f"speaker{number % 500:03d}"}
        supervision["custom"] = {"task": task}
        key = f"{supervision['speaker']}-{number:06d}"
        references.append({"id": key, "duration": round(duration, 2), "supervisions": [supervision]})
        end = "。" if characters else "."
        heard = space.join(damaged(units, draw))
        found.append({"id": key, "text": heard[:1].upper() + heard[1:] + end})
    write_jsonl(cuts, references)
    write_jsonl(hypotheses, found)


def damaged(units: list[str], draw: random.Random) -> list[str]:
    """Delete, replace and insert some units; make one text in a thousand loop."""
    heard = []
    for unit in units:
        kind = draw.random()
        if kind > 0.03:
            heard.append(unit if kind > 0.08 else draw.choice(units))
        if kind > 0.98:
            heard.append(draw.choice(units))
    return heard * 6 if draw.random() < 0.001 else heard


if __name__ == "__main__":
    main()
