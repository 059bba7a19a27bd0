"""Documents of a run's token shards that hold items of a benchmark, by the rule of `ilm_ray/data/decontamination`.

A model was trained on the token shards and on nothing else, so the search decodes the shards.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ilm_ray.base.jsonl import batches
from ilm_ray.config.data import DecontaminationConfig
from ilm_ray.data.decontamination.index import ItemIndex, build_index
from ilm_ray.data.decontamination.items import Item
from ilm_ray.data.decontamination.pipeline import BATCH, contaminated
from ilm_ray.data.documents.document import Document
from ilm_ray.data.tokenizer.chat import AnyTokenizer
from ilm_ray.data.tokens.shards import TokenSource


def item_index(items: Sequence[Item], settings: DecontaminationConfig) -> ItemIndex:
    """The index of the items. No word run counts as too common: a reader sees a false alarm, but not a lost leak."""
    return build_index(items, settings.ngram, np.empty(0, np.uint64))


def overlaps(
    source: TokenSource, name: str, index: ItemIndex, tokenizer: AnyTokenizer, settings: DecontaminationConfig
) -> Iterator[dict[str, Any]]:
    """A row for each item that a document holds: its id, url, dump, the item, the share of it, both texts."""
    specials = [tokenizer.bos_id, tokenizer.eos_id]
    for numbers in batches(iter(range(len(source))), BATCH):
        documents = []
        for number in numbers:
            ids = source.tokens(number)
            about = source.provenance(number)
            text = tokenizer.decode(ids[~np.isin(ids, specials)].tolist())
            document = Document(about["id"], about.get("url", ""), about.get("dump", ""), text=text)
            documents.append((document, name))
        yield from contaminated(documents, index, settings.ngram, settings.share)


def by_benchmark(index: ItemIndex, rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Benchmark file -> counts: items, items sought, items found, documents that hold an item."""
    sought = set(index.sought().tolist())
    matched = {row["item_number"] for row in rows}
    counts: dict[str, dict[str, Any]] = {}
    for number, item in enumerate(index.items):
        count = counts.setdefault(item.benchmark, {"items": 0, "sought": 0, "found": 0, "documents": 0})
        count["items"] += 1
        count["sought"] += number in sought
        count["found"] += number in matched
    for name, count in counts.items():
        count["documents"] = len({(row["stage"], row["id"]) for row in rows if row["benchmark"] == name})
    return counts
