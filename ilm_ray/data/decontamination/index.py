"""The table of benchmark passages, built once from all items and mapped by every task.

An item's question is sought: with its choices unless it has ALONE distinct words of its own, since "What is the capital
of France?" is asked everywhere; without choices, with its answer unless it has SHORT. A solution of ALONE words is
sought as well. A text of fewer than FEWEST words even so cannot be told from chance and is not sought. Numbers do not
count as words there: tables are full of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ilm_ray.base.files import save_array
from ilm_ray.base.jsonl import read_jsonl, write_jsonl
from ilm_ray.data.decontamination.items import Item
from ilm_ray.data.decontamination.match import Table, run_slots
from ilm_ray.data.decontamination.words import HashedWords, Runs, runs_of, split_words

ALONE, SHORT, FEWEST = 13, 8, 6  # GPT-3's n-grams have 8 to 13 words
MAX_ITEMS = 10  # a run that more items have is how questions are asked


class ItemIndex(NamedTuple):
    """The table of passages to find, and the item of each passage."""

    items: list[Item]
    table: Table
    item_of: np.ndarray  # int32 [passages]

    def sought(self) -> np.ndarray:
        """Numbers of the items of which something is looked for."""
        return np.unique(self.item_of)


def build_index(items: Sequence[Item], ngram: int, common: np.ndarray) -> ItemIndex:
    """The index of `items`. common: sorted uint64 hashes of runs that are too common among documents."""
    too_common = np.union1d(common, _common_in_items(items, ngram))
    needed = np.array([2 * (ALONE if item.choices else SHORT) for item in items])
    alone = _distinct_own([item.question for item in items], ngram, too_common) >= needed
    texts = [item.question if by_itself else _whole(item) for item, by_itself in zip(items, alone, strict=True)]
    solved = [number for number, item in enumerate(items) if item.solution]
    solutions = [items[number].solution for number in solved]
    enough = np.concatenate(
        [
            _distinct_own(texts, ngram, too_common) >= 2 * FEWEST,
            _distinct_own(solutions, ngram, too_common) >= 2 * ALONE,
        ]
    )
    item_of = np.array([*range(len(items)), *solved], np.int32)[enough]
    kept = [text for text, is_enough in zip([*texts, *solutions], enough, strict=True) if is_enough]
    return ItemIndex(list(items), _table(kept, ngram, too_common), item_of)


def all_runs(items: Sequence[Item], ngram: int) -> np.ndarray:
    """Sorted uint64 hashes of every run that may be looked for: the units of the documents' frequencies."""
    runs = runs_of(split_words([text for item in items for text in sought_texts(item)]), ngram)
    return np.unique(runs.hashes[runs.lengths > 0])


def sought_texts(item: Item) -> list[str]:
    """The texts of which an item's passages are made."""
    return [_whole(item), item.solution]


def save_index(folder: Path, index: ItemIndex) -> None:
    """Write the index; a file is there whole or not at all."""
    write_jsonl(folder / "items.jsonl.zst", (item._asdict() for item in index.items))
    for name, array in {**index.table._asdict(), "item_of": index.item_of}.items():
        save_array(folder / f"{name}.npy", array)


def load_index(folder: Path) -> ItemIndex:
    """Map an index that `save_index` wrote."""
    table = Table(**{name: map_array(folder / f"{name}.npy") for name in Table._fields})
    items = [Item(**row) for row in read_jsonl(folder / "items.jsonl.zst")]
    return ItemIndex(items, table, map_array(folder / "item_of.npy"))


def map_array(path: Path) -> np.ndarray:
    """A read-only array in memory that processes share."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _whole(item: Item) -> str:
    return "\n".join(filter(None, (item.question, item.choices or item.answer or item.solution)))


def _common_in_items(items: Sequence[Item], ngram: int) -> np.ndarray:
    """Runs of more than MAX_ITEMS items. An item that stands in several files counts once."""
    texts = list(dict.fromkeys("\n".join((_whole(item), item.solution)) for item in items))
    words = split_words(texts)
    runs = runs_of(words, ngram)
    full = runs.lengths > 0
    distinct, numbers = np.unique(runs.hashes[full], return_inverse=True)
    pairs = np.unique(numbers * len(texts) + words.text_of()[full])
    return distinct[np.bincount(pairs // len(texts), minlength=len(distinct)) > MAX_ITEMS]


def _own(words: HashedWords, runs: Runs, too_common: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """bool by word: does the run that starts there count; does the word stand in a run that counts?"""
    counting = (runs.lengths > 0) & ~np.isin(runs.hashes, too_common)
    starts = np.flatnonzero(counting)
    change = np.zeros(len(runs.hashes) + 1, np.int64)
    np.add.at(change, starts, 1)
    np.add.at(change, starts + runs.lengths[starts], -1)
    return counting, np.cumsum(change)[:-1] > 0


def _distinct_own(texts: list[str], ngram: int, too_common: np.ndarray) -> np.ndarray:
    """int64 by text: half-words that are its own, numbers left out, each counted once."""
    words = split_words(texts)
    _, own_words = _own(words, runs_of(words, ngram), too_common)
    chosen = own_words & ~words.numbers
    text_of, hashes, halves = words.text_of()[chosen], words.hashes[chosen], words.halves[chosen]
    order = np.lexsort((hashes, text_of))
    text_of, hashes, halves = text_of[order], hashes[order], halves[order]
    first = np.ones(len(order), bool)
    first[1:] = (text_of[1:] != text_of[:-1]) | (hashes[1:] != hashes[:-1])
    return np.bincount(text_of[first], halves[first], minlength=len(texts))


def _table(texts: list[str], ngram: int, too_common: np.ndarray) -> Table:
    words = split_words(texts)
    runs = runs_of(words, ngram)
    counting, own_words = _own(words, runs, too_common)
    text_of = words.text_of()
    place = np.flatnonzero(counting)
    place = place[np.argsort(runs.hashes[place], kind="stable")]
    distinct, firsts = np.unique(runs.hashes[place], return_index=True)
    table = Table(
        *run_slots(distinct),
        firsts=np.append(firsts, len(place)).astype(np.int64),
        passages=text_of[place].astype(np.int32),
        positions=(place - words.borders[text_of[place]]).astype(np.int32),
        hashes=words.hashes,
        own=own_words,
        borders=words.borders,
        counts=np.bincount(text_of, own_words, minlength=len(texts)).astype(np.int64),
    )
    for array in table:  # as a mapped one: the kernels are compiled for one kind of array
        array.setflags(write=False)
    return table
