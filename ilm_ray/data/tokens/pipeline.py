"""The tokens stage on Ray Data: kept documents of text and code -> token shards per source and split."""

import contextlib
import functools
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.base.jsonl import read_jsonl, utf8_bytes
from ilm_ray.data.documents.document import Document, read_documents
from ilm_ray.data.documents.paths import FINAL
from ilm_ray.data.documents.pipeline import run_tasks
from ilm_ray.data.tokenizer.chat import AnyTokenizer
from ilm_ray.data.tokenizer.opening import open_tokenizer
from ilm_ray.data.tokens.shards import ShardWriter
from ilm_ray.data.tokens.split import Candidates, candidates, heldout_limit, merge, split_key
from ilm_ray.run.metrics import TOKENS, counter
from ilm_ray.run.progress import Progress
from ilm_ray.run.stage import Context, Result

SPLITS = ("train", "heldout")
TEXT, CODE = "text", "code"
RECEIPTS = "receipts"
PROVENANCE = ("id", "url", "dump", "repository", "files")  # what a shard keeps of a row, where the row has it
MAX_WEIGHT = 1000

Removed = dict[str, frozenset[int]]  # stage -> ids of its documents that are no training data


def tokenize_corpus(context: Context) -> Result:
    """Write `<source>/<split>/shard-*` for every input file: `text.sources` by their names, the web's text by its
    languages, and code."""
    languages = context.config.text.languages
    items = [
        {"path": str(path), "number": number, "stage": stage}
        for stage, folder in ((TEXT, context.of("text") / FINAL), (CODE, context.of(CODE)))
        for number, path in enumerate(sorted(folder.glob("kept-*.jsonl.zst")))
    ]
    if not items:
        raise UserError(f"no kept documents in {context.run_dir}/text and /code; give `input` files with text in them")
    removed = decontaminated(context.of("decontamination"))
    limits = _heldout_limits(items, languages, removed, context.config.pretrain.heldout_share)
    work = functools.partial(
        _tokenize_file,
        tokenizer=str(context.of("tokenizer")),
        folder=str(context.folder),
        languages=languages,
        removed=removed,
        limits=json.dumps(limits),
    )
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    files, skipped = list[Path](), 0
    progress = Progress("tokens", len(items))
    for done, receipt in enumerate(run_tasks(items, work), 1):
        files += [context.folder / name for name in receipt["files"]]
        skipped += receipt["decontaminated"]
        for source, split, documents, tokens, size in receipt["counts"]:
            if tokens:  # Ray refuses to count by nothing
                counter(TOKENS).inc(tokens, tags={"source": source})
            for unit, value in (("documents", documents), ("tokens", tokens), ("bytes", size)):
                counts[source][unit] += value
                counts[source][f"{split}_{unit}"] += value
        progress.update(done, tokens=sum(c["tokens"] for c in counts.values()))
    if not counts:
        raise UserError(f"the kept documents in {context.run_dir} are empty")
    metrics = _metrics(counts)
    if context.of("decontamination").is_dir():
        metrics["summary"]["decontaminated"] = skipped
    return Result(files, metrics)


def source_of(document: Document, stage: str, languages: Iterable[str] | None) -> str | None:
    """The source a document belongs to; None where it is of the web and its language is not one of ours."""
    if stage == CODE or document.source:
        return CODE if stage == CODE else document.source
    return document.language if languages is None or document.language in languages else None


def decontaminated(folder: Path) -> Removed:
    """Ids that the stage `decontamination` removed, by the stage of the documents; nothing where it has not run.

    Raises UserError where its files are damaged.
    """
    removed: dict[str, set[int]] = {TEXT: set(), CODE: set()}
    for path in sorted(folder.glob("removed-*.jsonl.zst")):
        try:
            for row in read_jsonl(path):
                removed[row["stage"]].add(int(row["id"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} cannot be read ({type(error).__name__}: {error}); delete {folder} and run its stage again"
            ) from None
    return {stage: frozenset(ids) for stage, ids in removed.items()}


def _heldout_limits(
    items: list[dict[str, Any]], languages: list[str] | None, removed: Removed, share: float
) -> dict[str, int]:
    """Key below which a source's documents are held out: it depends on the whole source, so all files are read once."""
    parts: dict[str, list[Candidates]] = defaultdict(list)
    for row in run_tasks(items, functools.partial(_look_at_file, languages=languages, removed=removed)):
        for source, part in row.items():
            parts[source].append(Candidates(part["documents"], part["size"], [tuple(p) for p in part["smallest"]]))
    return {source: heldout_limit(merge(file_candidates), share) for source, file_candidates in sorted(parts.items())}


def _look_at_file(item: dict[str, Any], languages: list[str] | None, removed: Removed) -> dict[str, Any]:
    sizes: dict[str, list[tuple[int, int]]] = defaultdict(list)
    gone = removed[item["stage"]]
    for document in read_documents(Path(item["path"])):
        source = source_of(document, item["stage"], languages)
        if source is not None and document.id not in gone:
            sizes[source].append((split_key(document.id), utf8_bytes(document.text)))
    return {source: asdict(candidates(pairs)) for source, pairs in sizes.items()}


def _tokenize_file(
    item: dict[str, Any], tokenizer: str, folder: str, languages: list[str] | None, removed: Removed, limits: str
) -> dict[str, Any]:
    """Shards of one input file, then its receipt: a file with a receipt is not done again."""
    receipt = Path(folder) / RECEIPTS / f"{item['stage']}-{item['number']:05d}.json"
    if receipt.exists():
        return json.loads(receipt.read_text(encoding="utf-8"))
    shards: dict[tuple[str, str], ShardWriter] = {}
    limit, gone, skipped = json.loads(limits), removed[item["stage"]], 0
    encoder = _open(tokenizer)
    with contextlib.ExitStack() as stack:
        for document in read_documents(Path(item["path"])):
            source = source_of(document, item["stage"], languages)
            if source is None:
                continue
            if document.id in gone:
                skipped += 1
                continue
            key = source, "heldout" if split_key(document.id) < limit[source] else "train"
            if key not in shards:
                shards[key] = stack.enter_context(ShardWriter(Path(folder) / source / key[1], item["number"]))
            provenance = {name: value for name in PROVENANCE if (value := document.column(name)) is not None}
            tokens = encoder.encode_document(document.text)
            shards[key].add(tokens, utf8_bytes(document.text), provenance, _weight(document, item["path"]))
    done = sorted(shards.items())
    files = [str(path.relative_to(folder)) for _, shard in done for path in shard.paths]
    counts = [(*key, shard.documents, shard.tokens, shard.bytes) for key, shard in done]
    receipt.parent.mkdir(parents=True, exist_ok=True)
    content = {"files": files, "counts": counts, "decontaminated": skipped}
    write_text_atomic(receipt, json.dumps(content))
    return content


def _weight(document: Document, path: str) -> float:
    weight = document.columns.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight <= MAX_WEIGHT:
        raise UserError(
            f"{path}: document {document.id} has weight {weight!r}; give a number above 0 and up to {MAX_WEIGHT}"
        )
    return float(weight)


@functools.lru_cache(maxsize=1)
def _open(folder: str) -> AnyTokenizer:
    return open_tokenizer(Path(folder))  # once a worker process, not once a file


def _metrics(counts: dict[str, dict[str, int]]) -> dict[str, Any]:
    units = ("documents", "tokens", "bytes")
    sources: dict[str, dict[str, dict[str, float]]] = {}
    for source, figures in sorted(counts.items()):
        for split in SPLITS:
            part: dict[str, float] = {unit: figures[f"{split}_{unit}"] for unit in units}
            part["bytes_per_token"] = round(part["bytes"] / max(part["tokens"], 1), 3)
            sources.setdefault(source, {})[split] = part
    summary: dict[str, float] = {unit: sum(c[unit] for c in counts.values()) for unit in units}
    summary["bytes_per_token"] = round(summary["bytes"] / summary["tokens"], 3)
    return {"summary": summary, "sources": sources}
