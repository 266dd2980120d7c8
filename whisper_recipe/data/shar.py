"""`whisper-recipe shar`: cuts with features -> Lhotse Shar, shards that are read sequentially."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from lhotse import CutSet
from lhotse.cut import MonoCut
from lhotse.shar.utils import to_shar_placeholder
from lhotse.shar.writers.array import ArrayTarWriter
from lhotse.utils import fastcopy
from tqdm import tqdm

from whisper_recipe.data.fbank import LILCOM_TICK_POWER
from whisper_recipe.data.features import load_fbank
from whisper_recipe.data.shar_reader import INDEX
from whisper_recipe.errors import RecipeError, no_cuts
from whisper_recipe.files import atomic_write, require, write_json, write_jsonl

FOLDER = "shards"  # lhotse can read it directly: CutSet.from_shar(in_dir=...)


def shar(cuts: list[Path], out: Path, shard_size: int = 1000, storage: Literal["lilcom", "float16"] = "lilcom") -> None:
    """Write cuts and their features as Lhotse Shar: out/shards/cuts.*.jsonl.gz, features.*.tar and out/index.json.

    `train` streams them from the folder, or from a copy on a web server or object store.

    Args:
        cuts: cut manifests with stored features, from `whisper-recipe fbank`.
        out: the folder to write.
        shard_size: cuts per shard. Aim at 50 to 100 MB per shard and several shards per data-loading worker.
        storage: lilcom or float16, as in fbank; compresses the features again, which for long utterances adds the
            same error once more.

    Raises:
        RecipeError: a manifest is missing or empty, or a cut has no stored features.
    """
    if shard_size < 1:
        raise RecipeError(f"must be at least 1, got {shard_size}", where="shard_size")
    for path in cuts:
        require(path, "run stage 2 (whisper-recipe fbank) first")
    every = iter(tqdm(CutSet.from_files(cuts, shuffle_iters=False), desc=f"shar {out}", unit="cut"))
    rows = []
    with atomic_write(out, replace_folder=True) as aside:
        (aside / FOLDER).mkdir(parents=True)
        while shard := list(islice(every, shard_size)):
            rows.append(_write_shard(aside, len(rows), shard, storage))
        if not rows:
            raise no_cuts(cuts[0])
        write_json(aside / INDEX, {"shards": rows})
    print(f"{out}: {sum(row['count'] for row in rows)} cuts in {len(rows)} shards")


def _write_shard(folder: Path, number: int, cuts: list[MonoCut], storage: str) -> dict:
    """Write the two files of a shard; return its row of the index."""
    names = {"cuts": f"{FOLDER}/cuts.{number:06d}.jsonl.gz", "features": f"{FOLDER}/features.{number:06d}.tar"}
    # The name has no number to fill in, so lhotse writes a single file.
    writer = ArrayTarWriter(
        str(folder / names["features"]),
        shard_size=None,
        compression="lilcom" if storage == "lilcom" else "numpy",
        lilcom_tick_power=LILCOM_TICK_POWER,
    )
    with writer:
        write_jsonl(folder / names["cuts"], _written(cuts, writer, storage))
    return {**names, "count": len(cuts), "seconds": round(sum(cut.duration for cut in cuts), 3)}


def _written(cuts: Iterable[MonoCut], writer: ArrayTarWriter, storage: str) -> Iterator[dict]:
    """Write the features of cuts; yield the cuts' rows, without paths to data outside the shards."""
    for cut in cuts:
        if not isinstance(cut, MonoCut) or not cut.has_features:
            cure = "compute them with whisper-recipe fbank --storage lilcom_chunky"
            raise RecipeError("it has no stored features", where=cut.id, cure=cure)
        if str(Path(cut.id)) != cut.id or cut.id.startswith("/"):
            raise RecipeError("its id can't be a file name in an archive", where=cut.id, cure="rename the cut")
        values = load_fbank(cut, cut.num_features).numpy()
        # If the cut is a part of longer features, only this part is stored.
        duration = round(len(values) * cut.frame_shift, 8)
        features = fastcopy(cut.features, start=0.0, num_frames=len(values), duration=duration)
        writer.write(cut.id, values if storage == "lilcom" else values.astype(np.float16), features)
        recording = to_shar_placeholder(cut.recording, cut) if cut.has_recording else None
        placed = fastcopy(cut, start=0.0, features=to_shar_placeholder(features), recording=recording)
        yield placed.to_dict()
