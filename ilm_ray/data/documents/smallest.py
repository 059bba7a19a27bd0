"""The few rows of many that come first by a key, in memory that does not grow."""

import heapq
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Smallest(Generic[T]):
    """The `size` items with the smallest keys, in any order of arrival."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._heap: list[tuple[float, int, T]] = []

    def offer(self, key: float, tie: int, make: Callable[[], T]) -> None:
        """`make` is called only if the item is taken. `tie` orders items of one key and differs between them."""
        entry = (-key, -tie)
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, (*entry, make()))
        elif self._heap and entry > self._heap[0][:2]:
            heapq.heapreplace(self._heap, (*entry, make()))

    def items(self) -> list[T]:
        """Smallest key first."""
        return [item for *_, item in sorted(self._heap, key=lambda entry: (-entry[0], -entry[1]))]
