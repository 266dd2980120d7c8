"""Groups of like lengths, so that little has to be padded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def by_length(
    items: Iterable[Item], seconds: Callable[[Item], float], most: float, padded: float | None = None
) -> Iterator[list[Item]]:
    """Yield items in groups of like lengths, the longest first.

    Args:
        items: of any order; items of the same length keep theirs.
        seconds: the length of an item.
        most: seconds in a group at most, padding counted in; one item may have more.
        padded: seconds that all items are padded to; by default to the longest of the group.
    """
    group: list[Item] = []
    for item in sorted(items, key=lambda item: -seconds(item)):
        if group and (padded or seconds(group[0])) * (len(group) + 1) > most:
            yield group
            group = []
        group.append(item)
    if group:
        yield group
