"""Documents -> token shards on Ray Data, one task an input file."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import ray.data

from ilm_ray.corpus.jsonl import read_jsonl
from ilm_ray.corpus.stage import Context, Result
from ilm_ray.corpus.tokens import TokenSource, write_shard
from ilm_ray.observe.progress import Progress

# How many tokens at least are held out of a source, where it has that many to spare.
MIN_HELDOUT_TOKENS = 8_000
SPLITS = ("train", "heldout")


def tokenize_documents(context: Context) -> Result:
    """Encode every kept document of the text and code stages into `<source>/<split>` shards."""
    files = [
        *sorted(context.of("text").glob("quality/kept-*.jsonl.zst")),
        *sorted(context.of("code").glob("kept-*.jsonl.zst")),
    ]
    share = context.config.pretrain.heldout_share
    jobs = [
        {
            "number": number,
            "file": str(path),
            "out": str(context.folder),
            "tokenizer": str(context.of("tokenizer")),
            "share": share,
        }
        for number, path in enumerate(files)
    ]
    progress = Progress("tokens", len(jobs))
    dataset = ray.data.from_items(jobs, override_num_blocks=len(jobs)).map(_tokenize_file, num_cpus=1)
    for done, row in enumerate(dataset.iter_rows(), 1):
        progress.update(done, documents=row["documents"])
    sources: dict[str, dict[str, dict[str, float]]] = {}
    for source in sorted(p.name for p in context.folder.iterdir() if p.is_dir()):
        for split in SPLITS:
            opened = TokenSource(context.folder / source / split)
            sources.setdefault(source, {})[split] = {
                "documents": len(opened),
                "tokens": opened.total_tokens,
                "bytes": opened.total_bytes,
                "bytes_per_token": round(opened.total_bytes / max(opened.total_tokens, 1), 3),
            }
    total = sum(s["train"]["tokens"] + s["heldout"]["tokens"] for s in sources.values())
    written = [p for p in context.folder.rglob("shard-*") if p.is_file()]
    return Result(written, {"summary": {"tokens": total, "sources": sorted(sources)}, "sources": sources})


def heldout_documents(ids: Iterable[int], lengths: Iterable[int], share: float) -> set[int]:
    """Ids to hold out of one file: those whose hash is smallest, until `share` of its tokens is reached.

    At least MIN_HELDOUT_TOKENS, but never more than a fifth of the file.
    """
    sizes = dict(zip(ids, lengths, strict=True))
    total = sum(sizes.values())
    target = min(max(share * total, MIN_HELDOUT_TOKENS), total / 5)
    held, tokens = set[int](), 0
    for document in sorted(sizes, key=lambda i: hashlib.sha256(str(i).encode()).digest()):
        # A document that would take more than a fifth of the file stays in training.
        if tokens + sizes[document] <= max(target, 1) or (not held and sizes[document] <= total / 5):
            held.add(document)
            tokens += sizes[document]
        if tokens >= target:
            break
    return held


def _tokenize_file(job: dict[str, Any]) -> dict[str, Any]:
    from ilm_ray.tokenizer.tokenizer import Tokenizer

    tokenizer, out, number = Tokenizer.load(Path(job["tokenizer"])), Path(job["out"]), int(job["number"])
    by_source: dict[str, list[dict[str, Any]]] = {}
    for row in read_jsonl(Path(job["file"])):
        tokens = np.array([tokenizer.bos_id, *tokenizer.encode(row["text"]), tokenizer.eos_id], dtype=np.uint32)
        document = {key: row[key] for key in ("id", "url", "dump")}
        document |= {"tokens": tokens, "bytes": len(row["text"].encode())}
        by_source.setdefault(row["language"], []).append(document)
    for source, documents in by_source.items():
        held = heldout_documents(
            [d["id"] for d in documents], [len(d["tokens"]) for d in documents], float(job["share"])
        )
        for split in SPLITS:
            part = [d for d in documents if (d["id"] in held) == (split == "heldout")]
            write_shard(out / source / split, number, part)
    return {"documents": sum(map(len, by_source.values()))}
