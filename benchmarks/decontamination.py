"""Decontamination: recall of planted test items by kind of edit, false alarms on clean text, speed on one core.

Items of GSM8K, MMLU, CMMLU and others are planted in real documents, as they are and lightly edited (the kinds of
benchmarks/edits.py), and looked for in an index of all benchmarks. ngram, share and the word counts of
`index.py` were chosen on the even-numbered items and documents; what is printed is of the odd-numbered ones. Clean text
is books, manuals, the Brown corpus, the standard library and web pages that hold none of the items. Peer: a set of
13-grams per item, any of which is a hit (GPT-3's rule), on the same planted documents.

    python benchmarks/decontamination.py [folder of the real data]
"""

import io
import json
import random
import re
import sys
import sysconfig
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from edits import KINDS, REAL
from fastwarc.warc import ArchiveIterator, WarcRecordType
from plain_matches import plain_words

from ilm_ray.data.decontamination.index import ItemIndex, build_index
from ilm_ray.data.decontamination.items import Item, find_benchmarks, read_benchmarks
from ilm_ray.data.decontamination.match import find_passages
from ilm_ray.data.web.format.child import Page, read_page

DATA = Path(__file__).resolve().parents[2] / "shared/data"
NGRAM, SHARE, BATCH = 4, 0.8, 64
PLANTED = ("gsm8k", "mmlu", "cmmlu", "agieval", "humaneval", "nq_open")
ITEMS = 400  # planted of each benchmark
PEER_NGRAM = 13


def clean_texts(folder: Path) -> dict[str, list[str]]:
    """Source -> documents of some thousand characters."""
    text = folder / "text"
    english = "\n".join(
        path.read_text(encoding="cp1252", errors="replace") for path in sorted(text.glob("books_en/*.txt"))
    )
    chinese = "\n".join(path.read_bytes().decode("gb18030", "replace") for path in sorted(text.glob("books_zh/*.txt")))
    with zipfile.ZipFile(next(text.glob("brown/*.zip"))) as brown:
        named = [name for name in brown.namelist() if re.search(r"/c[a-r]\d\d$", name)]
        tagged = [brown.read(name).decode("utf-8", "replace") for name in named]
    library = sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py"))
    return {
        "books_en": list(_cut(english, 3000)),
        "books_zh": list(_cut(chinese, 1500)),
        "manuals": [page for path in sorted(text.glob("docs/*.tar.gz")) for page in _members(path)],
        "brown": [re.sub(r"/\S+", "", words) for words in tagged],
        "library": [p.read_text("utf-8", "replace") for p in library if "site-packages" not in p.parts][:1500],
        "web": list(_pages(folder / "web")),
    }


def _cut(text: str, chars: int) -> Iterator[str]:
    part: list[str] = []
    for line in text.split("\n"):
        part.append(line)
        if sum(map(len, part)) > chars:
            yield "\n".join(part)
            part = []


def _members(path: Path) -> Iterator[str]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and (file := archive.extractfile(member)) is not None:
                yield file.read().decode("utf-8", "replace")


def _pages(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("CC-MAIN-*/*.warc.gz")):
        for record in ArchiveIterator(io.BytesIO(path.read_bytes()), record_types=WarcRecordType.response):
            page = read_page(Page(record.reader.read(), record.http_charset))
            if page.text:
                yield page.text


def items_in(texts: list[str], index: ItemIndex) -> list[set[int]]:
    """The items that each text holds."""
    items: list[set[int]] = [set() for _ in texts]
    for first in range(0, len(texts), BATCH):
        for match in find_passages(texts[first : first + BATCH], index.table, NGRAM, SHARE):
            items[first + match.text].add(int(index.item_of[match.passage]))
    return items


def shown(item: Item) -> str:
    """An item as it stands on a web page: choices labelled; of an open question its answer too, if it is short."""
    choices = [f"{chr(65 + n % 26)}. {choice}" for n, choice in enumerate(item.choices.split("\n")) if choice]
    return "\n".join([item.question, *choices, *filter(None, [item.answer])])


def peer_holds(text: str, item: Item) -> bool:
    """Does the text hold any 13 words in a row of the item as it is shown (all its words where it has less)?"""
    words, document = plain_words(shown(item)), plain_words(text)
    n = min(PEER_NGRAM, len(words))
    grams = {tuple(document[i : i + n]) for i in range(len(document) - n + 1)}
    return any(tuple(words[i : i + n]) in grams for i in range(len(words) - n + 1))


def recall(items: list[Item], index: ItemIndex, hosts: list[str]) -> dict[str, dict[str, str]]:
    """Benchmark -> kind of edit -> share found (and by the peer) of the items planted one by one."""
    sought = set(index.sought().tolist())
    rng = random.Random(20240312)
    table: dict[str, dict[str, str]] = {}
    for benchmark in PLANTED:
        pool = [
            n for n, item in enumerate(items) if item.benchmark.startswith(f"{benchmark}/") and n % 2 and n in sought
        ]
        chosen = rng.sample(pool, min(ITEMS, len(pool)))
        for kind, edit in KINDS.items():
            edited = [(n, text) for n in chosen if (text := edit(shown(items[n]), rng)) is not None]
            if not edited:  # NQ-open has no capital letters
                continue
            planted = []
            for _, text in edited:
                host = rng.choice(hosts)
                place = rng.randrange(len(host) + 1)
                planted.append(f"{host[:place]}\n{text}\n{host[place:]}")
            hits = sum(n in there for (n, _), there in zip(edited, items_in(planted, index), strict=True))
            peer = sum(peer_holds(text, items[n]) for (n, _), text in zip(edited, planted, strict=True))
            share = f"{100 * hits / len(edited):.1f}% of {len(edited)} (13-grams {100 * peer / len(edited):.1f}%)"
            table.setdefault(benchmark, {})[kind] = share
    return table


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    items = read_benchmarks(find_benchmarks([str(folder / "eval" / pattern) for pattern in REAL]))
    begin = time.process_time()
    # No guard by document frequencies: the clean documents are what it would be counted on.
    index = build_index(items, NGRAM, np.empty(0, np.uint64))
    built = time.process_time() - begin
    texts = {source: documents[1::2] for source, documents in clean_texts(folder).items()}
    everything = [text for documents in texts.values() for text in documents]
    items_in(everything[:BATCH], index)  # the loops are compiled
    begin = time.process_time()
    matches = items_in(everything, index)
    seconds = time.process_time() - begin
    size = sum(len(text.encode("utf-8", "replace")) for text in everything)
    alarms = sum(map(bool, matches))
    for text, held in zip(everything, matches, strict=True):
        for number in sorted(held):
            print(f"  alarm: {items[number].benchmark} {items[number].text[:100]!r} in {text[:60]!r}")
    for benchmark, kinds in recall(items, index, everything).items():
        for kind, share in kinds.items():
            print(f"  {benchmark:<10} {kind:<12} found {share}")
    figures = {
        "items": len(items),
        "items_sought": len(index.sought()),
        "index_seconds": round(built, 1),
        "clean_documents": {source: len(documents) for source, documents in texts.items()},
        "false_alarms": alarms,
        "false_alarm_share": round(alarms / len(everything), 5),
        "megabytes_per_second_and_core": round(size / 1e6 / seconds, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
