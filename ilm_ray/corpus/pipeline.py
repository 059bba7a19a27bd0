"""The tokens stage on Ray Data: kept documents of text and code -> token shards per source and split."""

import functools
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import ray

from ilm_ray.corpus.files import write_text_atomic
from ilm_ray.corpus.jsonl import read_jsonl
from ilm_ray.corpus.split import Candidates, candidates, heldout_limit, merge, split_key
from ilm_ray.corpus.stage import Context, Result
from ilm_ray.corpus.tokens import write_shard
from ilm_ray.errors import UserError
from ilm_ray.observe.progress import Progress
from ilm_ray.tokenizer.tokenizer import Tokenizer

SPLITS = ("train", "heldout")
CODE = "code"
RECEIPTS = "receipts"
BATCH = 64  # documents encoded at once


def tokenize_corpus(context: Context) -> Result:
    """Write `<source>/<split>/shard-*` for every input file; sources are the languages of the text, and code."""
    languages = context.config.text.languages
    items = [
        {"path": str(path), "number": number, "stage": stage}
        for stage, folder in (("text", context.of("text") / "quality"), (CODE, context.of(CODE)))
        for number, path in enumerate(sorted(folder.glob("kept-*.jsonl.zst")))
    ]
    if not items:
        raise UserError(f"no kept documents in {context.run_dir}/text and /code; give `input` files with text in them")
    limits = _heldout_limits(items, languages, context.config.pretrain.heldout_share)
    work = functools.partial(
        _tokenize_file,
        tokenizer=str(context.of("tokenizer")),
        folder=str(context.folder),
        languages=languages,
        limits=json.dumps(limits),
    )
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    files: list[Path] = []
    progress = Progress("tokens", len(items))
    for done, receipt in enumerate(_run(items, work), 1):
        files += [context.folder / name for name in receipt["files"]]
        for source, split, documents, tokens, size in receipt["counts"]:
            for unit, value in (("documents", documents), ("tokens", tokens), ("bytes", size)):
                counts[source][unit] += value
                counts[source][f"{split}_{unit}"] += value
        progress.update(done, tokens=sum(c["tokens"] for c in counts.values()))
    if not counts:
        raise UserError(f"the kept documents in {context.run_dir} are empty")
    return Result(files, _metrics(counts))


def source_of(row: dict[str, Any], stage: str, languages: Iterable[str] | None) -> str | None:
    """The source a document belongs to; None where its language is not one of ours."""
    if stage == CODE:
        return CODE
    return row["language"] if languages is None or row["language"] in languages else None


def _heldout_limits(items: list[dict[str, Any]], languages: list[str] | None, share: float) -> dict[str, int]:
    """Key below which a source's documents are held out: it depends on the whole source, so all files are read once."""
    parts: dict[str, list[Candidates]] = defaultdict(list)
    for row in _run(items, functools.partial(_look_at_file, languages=languages)):
        for source, part in row.items():
            parts[source].append(Candidates(part["documents"], part["size"], [tuple(p) for p in part["smallest"]]))
    return {source: heldout_limit(merge(found), share) for source, found in sorted(parts.items())}


def _look_at_file(item: dict[str, Any], languages: list[str] | None) -> dict[str, Any]:
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row in read_jsonl(Path(item["path"])):
        source = source_of(row, item["stage"], languages)
        if source is not None:
            found[source].append((split_key(row["id"]), len(row["text"].encode("utf-8", "replace"))))
    return {source: asdict(candidates(pairs)) for source, pairs in found.items()}


def _tokenize_file(
    item: dict[str, Any], tokenizer: str, folder: str, languages: list[str] | None, limits: str
) -> dict[str, Any]:
    """Shards of one input file, then its receipt: a file with a receipt is not done again."""
    receipt = Path(folder) / RECEIPTS / f"{item['stage']}-{item['number']:05d}.json"
    if receipt.exists():
        return json.loads(receipt.read_text(encoding="utf-8"))
    shards: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    limit = json.loads(limits)
    for source, document in _encoded(item, _open(tokenizer), languages):
        split = "heldout" if split_key(document["id"]) < limit[source] else "train"
        shards[source, split].append(document)
    files, counts = list[str](), list[tuple[str, str, int, int, int]]()
    for (source, split), documents in sorted(shards.items()):
        paths = write_shard(Path(folder) / source / split, item["number"], documents)
        files += [str(path.relative_to(folder)) for path in paths]
        tokens, size = sum(len(d["tokens"]) for d in documents), sum(d["bytes"] for d in documents)
        counts.append((source, split, len(documents), tokens, size))
    receipt.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(receipt, json.dumps({"files": files, "counts": counts}))
    return {"files": files, "counts": counts}


def _encoded(
    item: dict[str, Any], tokenizer: Tokenizer, languages: list[str] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(source, document with `tokens` and `bytes`) of every document of a file, in its order."""
    batch: list[tuple[str, dict[str, Any]]] = []

    def flush() -> Iterator[tuple[str, dict[str, Any]]]:
        encoded = tokenizer.encode_batch([row["text"] for _, row in batch])
        for (source, row), ids in zip(batch, encoded, strict=True):
            size = len(row["text"].encode("utf-8", "replace"))
            # A file's documents wait until their shards are written: four bytes a token, not a Python integer.
            tokens = np.concatenate([[tokenizer.bos_id], ids, [tokenizer.eos_id]], dtype=np.uint32)
            yield source, {"tokens": tokens, "bytes": size, **{k: row[k] for k in ("id", "url", "dump")}}
        batch.clear()

    for row in read_jsonl(Path(item["path"])):
        source = source_of(row, item["stage"], languages)
        if source is not None:
            batch.append((source, row))
        if len(batch) == BATCH:
            yield from flush()
    yield from flush()


@functools.lru_cache(maxsize=1)
def _open(folder: str) -> Tokenizer:
    return Tokenizer.load(Path(folder))  # once a worker process, not once a file


def _run(items: list[dict[str, Any]], work: functools.partial[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """`work` on every item as Ray Data tasks. Results travel as JSON: their shapes differ from file to file."""
    rows = ray.data.from_items(items, override_num_blocks=len(items)).map(functools.partial(_as_json, work=work))
    for row in rows.iter_rows():
        yield json.loads(row["json"])


def _as_json(item: dict[str, Any], work: functools.partial[dict[str, Any]]) -> dict[str, str]:
    return {"json": json.dumps(work(item))}


def _metrics(counts: dict[str, dict[str, int]]) -> dict[str, Any]:
    units = ("documents", "tokens", "bytes")
    sources: dict[str, dict[str, dict[str, float]]] = {}
    for source, found in sorted(counts.items()):
        for split in SPLITS:
            part: dict[str, float] = {unit: found[f"{split}_{unit}"] for unit in units}
            part["bytes_per_token"] = round(part["bytes"] / max(part["tokens"], 1), 3)
            sources.setdefault(source, {})[split] = part
    summary: dict[str, float] = {unit: sum(c[unit] for c in counts.values()) for unit in units}
    summary["bytes_per_token"] = round(summary["bytes"] / summary["tokens"], 3)
    return {"summary": summary, "sources": sources}
