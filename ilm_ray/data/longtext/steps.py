"""Steps on one kept file of text or code: find its long documents, and mark those that passed everything.

Bytes depend on the input and the settings alone; files appear by renaming. So a step may be killed, or run twice.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ilm_ray.base.files import save_array
from ilm_ray.base.jsonl import JsonlWriter, batches, read_jsonl
from ilm_ray.data.documents.document import Document, judged, read_documents
from ilm_ray.data.longtext.features import describe
from ilm_ray.data.longtext.thresholds import DIFFERENCE, first_failure, parse_thresholds

CODE, WEB = "code", "web"
SPLITS = ("train", "heldout")
STEPS = ("length", "statistics", "perplexity")
KEPT, SHORT = "kept", "short"
PART_BYTES = 4 * 2**20  # of text that an actor scores at once: what is lost when it dies
EXCERPT_CHARS = 320  # from the middle of a document, for the report
BATCH = 32  # documents described at once


@dataclass(frozen=True)
class KeptFile:
    """A kept file of a stage ("text" or "code"); `number` is also that of its token shards."""

    path: str
    stage: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.number:05d}"


@dataclass(frozen=True)
class Settings:
    """Settings of both steps. thresholds: the text of the YAML file; named: the names of `text.sources`."""

    tokens: str
    folder: str
    min_bytes: int
    named: tuple[str, ...]
    thresholds: str


@dataclass(frozen=True)
class Shard:
    """Documents of a token shard: their ids, dumps and bytes, in its order."""

    source: str
    split: str
    ids: list[int]
    dumps: list[str]
    sizes: list[int]


def find_file(file: KeptFile, settings: Settings) -> dict[str, Any]:
    """Score every long document; write its row, and the texts of those that pass the statistics in parts."""
    folder, table = Path(settings.folder), parse_thresholds(settings.thresholds)
    parts = _Parts(folder / "candidates", file.name)
    with JsonlWriter(folder / "statistics" / f"{file.name}.jsonl.zst") as out:
        for batch in batches(_long_documents(file, settings), BATCH):
            documents = [document for document, _ in batch]
            described = describe([each.text for each in documents], [each.language for each in documents])
            for (document, place), scores in zip(batch, described, strict=True):
                verdict = first_failure(scores, table.of(place["domain"], document.language))
                middle = document.chars // 2
                row = place | {name: document.column(name) for name in ("url", "dump", "language", "bytes")}
                row |= {"id": str(document.id), "excerpt": document.text[middle : middle + EXCERPT_CHARS]}
                out.write(judged(row | scores, verdict))
                if verdict is None:
                    parts.add(document)
    parts.close()
    return {"parts": parts.count}


def mark_file(file: KeptFile, settings: Settings) -> dict[str, Any]:
    """Join statistics and differences, judge by the difference, write rows and marks; the counts of the output."""
    folder, table = Path(settings.folder), parse_thresholds(settings.thresholds)
    paths = sorted((folder / "differences").glob(f"{file.name}-*.jsonl.zst"))
    scored = {row["id"]: row for path in paths for row in read_jsonl(path)}
    kept_path, removed_path = (folder / f"{kind}-{file.name}.jsonl.zst" for kind in ("kept", "removed"))
    counts: Counter[tuple[str, str, str, str, str]] = Counter()
    long, passed = set[int](), set[int]()

    def count(step: str, rule: str, domain: str, source: str, size: int) -> None:
        counts[step, rule, domain, source, "documents"] += 1
        counts[step, rule, domain, source, "bytes"] += size

    with JsonlWriter(kept_path) as kept, JsonlWriter(removed_path) as removed:
        for row in read_jsonl(folder / "statistics" / f"{file.name}.jsonl.zst"):
            where = row["domain"], row["source"], row["bytes"]
            long.add(int(row["id"]))
            count("statistics", row.get("drop_rule", KEPT), *where)
            if "drop_rule" not in row:
                row |= scored[row["id"]]
                bounds = table.of(row["domain"], row["language"])
                row = judged(row, first_failure(row, {rule: bounds[rule] for rule in bounds if rule == DIFFERENCE}))
                count("perplexity", row.get("drop_rule", KEPT), *where)
            if "drop_rule" in row:
                removed.write(row)
            else:
                kept.write(row)
                passed.add(int(row["id"]))
    files = [kept_path, removed_path]
    for shard in _shards(file, settings):
        path = folder / shard.source / shard.split / f"shard-{file.number:05d}.long.npy"
        save_array(path, np.array([document in passed for document in shard.ids], bool))
        files.append(path)
        for document, dump, size in zip(shard.ids, shard.dumps, shard.sizes, strict=True):
            domain = domain_of(dump, file.stage, settings.named)
            count("length", KEPT if document in long else SHORT, domain, shard.source, size)
    return {
        "files": [str(path.relative_to(folder)) for path in files],
        "counts": [[*key, value] for key, value in sorted(counts.items())],
    }


def domain_of(dump: str, stage: str, named: Iterable[str]) -> str:
    """The domain that thresholds are set for: code, the name of a text source, or web."""
    if stage == CODE:
        return CODE
    return dump if dump in named else WEB


def _long_documents(file: KeptFile, settings: Settings) -> Iterator[tuple[Document, dict[str, str]]]:
    """Documents of a kept file that are in a token shard and long, each with its domain, source and split."""
    places = {document: (s.source, s.split) for s in _shards(file, settings) for document in s.ids}
    for document in read_documents(Path(file.path)):
        if document.bytes > settings.min_bytes and document.id in places:
            source, split = places[document.id]
            domain = domain_of(document.dump, file.stage, settings.named)
            yield document, {"domain": domain, "source": source, "split": split}


def _shards(file: KeptFile, settings: Settings) -> Iterator[Shard]:
    """The token shards that a kept file became."""
    for folder in sorted(Path(settings.tokens).iterdir()):
        for split in SPLITS:
            rows = folder / split / f"shard-{file.number:05d}.documents.jsonl.zst"
            if (folder.name == CODE) == (file.stage == CODE) and rows.is_file():
                arrays = (rows.with_name(f"shard-{file.number:05d}.{name}.npy") for name in ("ids", "bytes"))
                ids, sizes = (np.load(array).tolist() for array in arrays)
                yield Shard(folder.name, split, ids, [row["dump"] for row in read_jsonl(rows)], sizes)


class _Parts:
    """Writes {id, text} rows into files of about PART_BYTES of text each."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.count, self._held = folder, name, 0, 0
        self._out: JsonlWriter | None = None

    def add(self, document: Document) -> None:
        if self._out is None:
            self._out = JsonlWriter(self.folder / f"{self.name}-{self.count:05d}.jsonl.zst").__enter__()
            self.count += 1
        self._out.write({"id": str(document.id), "text": document.text})
        self._held += document.bytes
        if self._held >= PART_BYTES:
            self.close()

    def close(self) -> None:
        if self._out is not None:
            self._out.__exit__(None, None, None)
        self._out, self._held = None, 0
