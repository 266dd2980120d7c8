"""Group items of similar length, to reduce padding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def by_length(
    items: Iterable[Item], seconds: Callable[[Item], float], most: float, padded: float | None = None
) -> Iterator[list[Item]]:
    """Yield items in groups of similar length, the longest first.

    Args:
        items: in any order; items of the same length keep their order.
        seconds: the length of an item.
        most: maximum seconds in a group, including padding; a single item may exceed it.
        padded: seconds to which all items are padded; default: the longest in the group.
    """
    group: list[Item] = []
    for item in sorted(items, key=lambda item: -seconds(item)):
        if group and (padded or seconds(group[0])) * (len(group) + 1) > most:
            yield group
            group = []
        group.append(item)
    if group:
        yield group
