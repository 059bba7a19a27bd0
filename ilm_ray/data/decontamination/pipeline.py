"""Decontamination on Ray Data: kept documents of text and code -> lists of those that hold a benchmark item.

Writes `removed-<stage>-NNNNN.jsonl.zst` for every `kept-NNNNN` of the stage: a row for each item that a document holds.
The tokens stage leaves these documents out. Two passes: in a sample the runs are counted that documents hold without
holding the item, then every file is looked through with an index in which the common ones do not count. An item that
leaked into many documents whole is not taken for a common phrase so.
"""

import csv
import functools
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ilm_ray.base.files import save_array, write_text_atomic
from ilm_ray.base.jsonl import batches, read_jsonl, sha256_of, write_jsonl
from ilm_ray.base.places import located, place_in_tree
from ilm_ray.config import Config
from ilm_ray.config.data import DecontaminationConfig
from ilm_ray.config.named_data import stage_off
from ilm_ray.data.decontamination.index import (
    ItemIndex,
    all_runs,
    build_index,
    load_index,
    map_array,
    save_index,
    sought_texts,
)
from ilm_ray.data.decontamination.items import Item, find_benchmarks, read_benchmarks
from ilm_ray.data.decontamination.match import find_passages, find_runs, run_slots
from ilm_ray.data.decontamination.words import runs_of, split_words
from ilm_ray.data.documents.document import Document, read_documents
from ilm_ray.data.documents.paths import FINAL
from ilm_ray.data.documents.pipeline import run_tasks
from ilm_ray.run.metrics import DOCUMENTS, counter
from ilm_ray.run.progress import Progress
from ilm_ray.run.stage import Context, Result

BATCH = 64
# A run is common that more than MAX_DOCUMENTS of the sample (GPT-3's bound for its 13-grams), and more than this share
# of it, hold without the item.
SAMPLE_FILES, SAMPLE_DOCUMENTS = 256, 20_000
MAX_DOCUMENTS, MAX_SHARE = 10, 0.001
SHOWN = 2000  # characters of a passage and of an item that a row keeps
TABLE_ROWS, TABLE_CHARS = 1000, 200  # of removed.csv


def decontaminate(context: Context) -> Result:
    """Write the removed files and `removed.csv` (the first rows for people); nothing where no benchmark is named."""
    if off := stage_off(context.config, "decontamination"):
        summary: dict[str, int] = {"benchmarks": 0, "items": 0, "documents_removed": 0}
        return Result([], {"summary": summary, "benchmarks": {}, "off": off})
    config = context.config.decontamination
    items = read_benchmarks(benchmark_files(context.config))
    files = [
        {"path": str(path), "number": number, "stage": stage}
        for stage, folder in (("text", context.of("text") / FINAL), ("code", context.of("code")))
        for number, path in enumerate(sorted(folder.glob("kept-*.jsonl.zst")))
    ]
    common, sampled = _common_runs(items, files, context.folder / "index", config)
    index = build_index(items, config.ngram, common)
    save_index(context.folder / "index", index)
    work = functools.partial(_look_through, folder=str(context.folder), ngram=config.ngram, share=config.share)
    documents, removed, hits = Counter[str](), Counter[str](), Counter[int]()
    progress = Progress("decontamination", len(files))
    for done, receipt in enumerate(run_tasks(files, work), 1):
        documents[receipt["stage"]] += receipt["documents"]
        removed[receipt["stage"]] += receipt["removed"]
        kept = receipt["documents"] - receipt["removed"]
        for outcome, count in (("kept", kept), ("removed", receipt["removed"])):
            if count:  # Ray refuses to count by nothing
                tags = {"stage": f"decontamination/{receipt['stage']}", "outcome": outcome}
                counter(DOCUMENTS).inc(count, tags=tags)
        hits.update({int(item): count for item, count in receipt["items"].items()})
        progress.update(done, removed=removed.total())
    written = [_removed_path(context.folder, file) for file in files]
    _write_table(context.folder / "removed.csv", written)
    summary = {
        "benchmarks": len({item.benchmark for item in items}),
        "items": len(items),
        "items_sought": len(index.sought()),
        "items_found": len(hits),
        "documents": documents.total(),
        "documents_removed": removed.total(),
        **{f"removed_{stage}": count for stage, count in sorted(removed.items())},
    }
    guard = {"common_runs": len(common), "documents_sampled": sampled, "limit": _limit(sampled)}
    by_benchmark = _by_benchmark(index, hits)
    return Result(written, {"summary": summary, "false_alarm_guard": guard, "benchmarks": by_benchmark})


def benchmark_files(config: Config) -> list[Path]:
    """The benchmark files to look for. Raises UserError where a glob matches none."""
    return find_benchmarks([located(pattern) for pattern in config.decontamination.benchmarks or ()])


def sources(config: Config) -> dict[str, str]:
    """Fingerprints of the benchmark files. Raises UserError where one cannot be read."""
    paths = benchmark_files(config)
    read_benchmarks(paths)
    return {f"benchmark {place_in_tree(str(path))}": sha256_of(path) for path in paths}


def _common_runs(
    items: list[Item], files: list[dict[str, Any]], folder: Path, config: DecontaminationConfig
) -> tuple[np.ndarray, int]:
    """(sorted hashes of the runs that too many documents hold, how many documents were looked at).

    The sample is the first documents of files that lie evenly among all, so it does not depend on the workers.
    """
    runs = all_runs(items, config.ngram)
    keys, places = run_slots(runs)
    save_array(folder / "counted" / "run_keys.npy", keys)
    save_array(folder / "counted" / "run_places.npy", places)
    save_index(folder / "counted", build_index(items, config.ngram, np.empty(0, np.uint64)))
    chosen = files[:: -(-len(files) // SAMPLE_FILES)] if files else []
    first = -(-SAMPLE_DOCUMENTS // max(len(chosen), 1))
    work = functools.partial(_count_runs, folder=str(folder), config=config, first=first)
    frequencies = np.zeros(len(runs), np.int64)
    sampled = 0
    for row in run_tasks(chosen, work):
        counted = np.load(row["path"], allow_pickle=False)
        frequencies[counted[0]] += counted[1]
        sampled += row["documents"]
    return runs[frequencies > _limit(sampled)], sampled


def _limit(sampled: int) -> int:
    return max(MAX_DOCUMENTS, int(MAX_SHARE * sampled))


def _count_runs(file: dict[str, Any], folder: str, config: DecontaminationConfig, first: int) -> dict[str, Any]:
    """Save [run, documents that hold it but not the item] of the first documents of a file."""
    counted = Path(folder, "counted")
    index, slots = load_index(counted), (map_array(counted / "run_keys.npy"), map_array(counted / "run_places.npy"))

    def known(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(numbers of the runs that the texts hold, the text of each)."""
        words = split_words(texts)
        numbers = find_runs(*runs_of(words, config.ngram), *slots)
        return numbers[numbers >= 0], words.text_of()[numbers >= 0]

    numbers = [np.empty(0, np.int64)]
    documents = 0
    for batch in batches(itertools.islice(read_documents(Path(file["path"])), first), BATCH):
        texts = [document.text for document in batch]
        runs, text_of = known(texts)
        held = {
            (match.text, int(index.item_of[match.passage]))
            for match in find_passages(texts, index.table, config.ngram, config.share)
        }
        of_items = [known(sought_texts(index.items[item]))[0] * BATCH + text for text, item in sorted(held)]
        background = np.setdiff1d(runs * BATCH + text_of, np.concatenate([np.empty(0, np.int64), *of_items]))
        numbers.append(background // BATCH)
        documents += len(batch)
    path = Path(folder, "counts", f"{file['stage']}-{file['number']:05d}.npy")
    save_array(path, np.stack(np.unique(np.concatenate(numbers), return_counts=True)))
    return {"path": str(path), "documents": documents}


def _look_through(file: dict[str, Any], folder: str, ngram: int, share: float) -> dict[str, Any]:
    """The removed rows of one file, then its receipt: a file with a receipt is not done again."""
    receipt = Path(folder, "receipts", f"{file['stage']}-{file['number']:05d}.json")
    if receipt.exists():
        return dict(json.loads(receipt.read_text(encoding="utf-8")))
    index = _open(folder)
    items, removed = Counter[int](), set[str]()
    documents = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal documents
        for batch in batches(read_documents(Path(file["path"])), BATCH):
            documents += len(batch)
            for row in contaminated([(document, file["stage"]) for document in batch], index, ngram, share):
                removed.add(row["id"])
                items[row.pop("item_number")] += 1
                yield row

    write_jsonl(_removed_path(Path(folder), file), rows())
    about = {"stage": file["stage"], "documents": documents, "removed": len(removed), "items": dict(items)}
    receipt.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(receipt, json.dumps(about))
    return json.loads(json.dumps(about))  # as from the receipt: numbers as keys are text there


def contaminated(
    documents: list[tuple[Document, str]], index: ItemIndex, ngram: int, share: float
) -> Iterator[dict[str, Any]]:
    """A row for each item that a document of (document, stage) holds, by document, the most alike first."""
    best: dict[tuple[int, int], Any] = {}
    for match in find_passages([document.text for document, _ in documents], index.table, ngram, share):
        place = (match.text, int(index.item_of[match.passage]))
        if place not in best or match.share > best[place].share:  # a question and its solution are one item
            best[place] = match
    for (text, number), match in sorted(best.items(), key=lambda pair: (pair[0][0], -pair[1].share, pair[0][1])):
        document, stage = documents[text]
        item = index.items[number]
        yield {
            "id": str(document.id),
            "stage": stage,
            "url": document.url,
            "benchmark": item.benchmark,
            "item": item.name,
            "item_number": number,
            "share": round(match.share, 4),
            "passage": document.text[match.start : match.end][:SHOWN],
            "item_text": item.text[:SHOWN],
        }


@functools.lru_cache(maxsize=1)
def _open(folder: str) -> ItemIndex:
    return load_index(Path(folder, "index"))  # once a worker process, not once a file


def _removed_path(folder: Path, file: dict[str, Any]) -> Path:
    return folder / f"removed-{file['stage']}-{file['number']:05d}.jsonl.zst"


def _write_table(path: Path, removed: list[Path]) -> None:
    """The first rows, without line breaks and cut, for a person's own tables."""
    out = io.StringIO()
    fields = ("url", "stage", "id", "benchmark", "item", "share", "passage", "item_text")
    sheet = csv.writer(out, lineterminator="\n")
    sheet.writerow(fields)
    for row in itertools.islice(itertools.chain.from_iterable(map(read_jsonl, removed)), TABLE_ROWS):
        sheet.writerow([" ".join(str(row[field]).split())[:TABLE_CHARS] for field in fields])
    write_text_atomic(path, out.getvalue())


def _by_benchmark(index: ItemIndex, hits: Counter[int]) -> dict[str, dict[str, int]]:
    """Benchmark file -> items, those sought, those found."""
    counts: dict[str, dict[str, int]] = {}
    sought = set(index.sought().tolist())
    for number, item in enumerate(index.items):
        row = counts.setdefault(item.benchmark, {"items": 0, "sought": 0, "found": 0, "hits": 0})
        row["items"] += 1
        row["sought"] += number in sought
        row["found"] += number in hits
        row["hits"] += hits[number]
    return counts
