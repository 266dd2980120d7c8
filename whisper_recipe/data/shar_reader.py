"""Reading Lhotse Shar: shards of cuts and features, each read sequentially, from a folder or a URL."""

from __future__ import annotations

import functools
import gzip
import json
import re
import tarfile
import time
import urllib.request
import zlib
from collections.abc import Iterator
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from lhotse.features.base import Features
from lhotse.serialization import open_best
from lhotse.shar.readers.tar import TarIterator

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import require

INDEX = "index.json"  # of the shards, next to their folder
SHARD = "shard"  # custom field of a cut: the location of its features
SHARDS_AT_ONCE = 4  # held in memory per process
URL = re.compile(r"(https?|s3|gs):/+(.+)")  # allowed schemes: none that runs commands
NAME = re.compile(r"[\w-][\w./-]*")
CURE = "write the shards with whisper-recipe shar"
TIMEOUT, TRIES = 60, 3  # seconds to wait for a response; attempts before a server error is raised


class Shard(NamedTuple):
    """Locations of the two files of a shard."""

    cuts: str
    features: str


def url_of(place: str | Path) -> str | None:
    """Return the URL of a place, or None for a path; Path("http://x") has lost one of its slashes."""
    found = URL.fullmatch(str(place))
    return f"{found[1]}://{found[2]}" if found else None


def is_shards(place: str | Path) -> bool:
    """Whether a place is a set of shards rather than a manifest."""
    return url_of(place) is not None or Path(place).is_dir()


def index_place(place: str | Path) -> str:
    """Return the location of the index of a set of shards."""
    url = url_of(place)
    return f"{url.rstrip('/')}/{INDEX}" if url else str(Path(place).absolute() / INDEX)


def list_shards(place: str | Path) -> list[Shard]:
    """Return the shards in a folder or at a URL, written by `whisper-recipe shar`.

    Raises:
        RecipeError: there is no index, or it is damaged.
    """
    index = index_place(place)
    base = index.removesuffix(INDEX)
    try:
        rows = json.loads(read_place(index))["shards"]
        shards = [Shard(row["cuts"], row["features"]) for row in rows]
        # The index may come from elsewhere: its names must not lead outside the folder.
        if not all(NAME.fullmatch(name) and ".." not in name for shard in shards for name in shard):
            raise ValueError("names outside its folder")
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"not an index of shards ({error})", where=index, cure=CURE) from None
    if not shards:
        raise RecipeError("no shards in it", where=index, cure=CURE)
    return [Shard(base + shard.cuts, base + shard.features) for shard in shards]


def read_place(place: str) -> bytes:
    """Return the contents of a file or URL: HTTP by the standard library, s3:// and gs:// by smart_open.

    Raises:
        RecipeError: it can't be read.
    """
    if url_of(place) is None:
        return require(place, CURE).read_bytes()
    for left in reversed(range(TRIES)):
        try:
            if place.startswith("http"):
                with urllib.request.urlopen(place, timeout=TIMEOUT) as answer:
                    return answer.read()
            with open_best(place, "rb") as file:
                return file.read()
        except (OSError, ValueError, HTTPException) as error:
            if not left or isinstance(error, ValueError) or getattr(error, "code", 500) < 500:
                raise RecipeError(f"can't be read ({error})", where=place, cure="check the address") from None
            time.sleep(1)
    raise AssertionError("unreachable")


def read_cuts(shard: Shard) -> Iterator[dict]:
    """Yield the rows of a shard's cuts, each with the location of its features."""
    try:
        for line in gzip.decompress(read_place(shard.cuts)).splitlines():
            row = json.loads(line)
            row["custom"] = {**(row.get("custom") or {}), SHARD: shard.features}
            yield row
    except (OSError, EOFError, ValueError, TypeError, AttributeError, zlib.error) as error:
        raise RecipeError(f"not a shard of cuts ({error})", where=shard.cuts, cure=CURE) from None


@functools.lru_cache(maxsize=SHARDS_AT_ONCE)
def read_features(place: str) -> dict[str, Features]:
    """Return cut id -> its features, still compressed, for a shard; the last few shards are cached.

    Raises:
        RecipeError: the shard can't be read, or holds something else.
    """
    features_by_id = {}
    try:
        for features, path in TarIterator(BytesIO(read_place(place))):
            if not isinstance(features, Features):
                raise ValueError(f"{path} has no features")
            features_by_id[str(path.parent / path.stem)] = features
    except (tarfile.TarError, OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RecipeError(f"not a shard of features ({error})", where=place, cure=CURE) from None
    return features_by_id


def features_of(key: str, place: str) -> Features:
    """Return the features of a cut in a shard; RecipeError if it has none."""
    features = read_features(place).get(key)
    if features is None:
        raise RecipeError(f"no features for cut {key}", where=place, cure=CURE)
    return features
