"""The code stage on Ray Data: facts of every file, then the documents of every repository."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from ilm_ray.code.documents import join_sections, repository_rows
from ilm_ray.code.facts import Facts, Index
from ilm_ray.code.imports import LANGUAGES, dependencies, find_facts
from ilm_ray.code.markdown import file_section
from ilm_ray.code.order import dependency_order, repositories
from ilm_ray.code.tokens import count_tokens
from ilm_ray.code.tree import choose_files, find_manifests, read_source, source_root
from ilm_ray.corpus.files import write_text_atomic
from ilm_ray.corpus.jsonl import read_jsonl, write_jsonl
from ilm_ray.corpus.stage import Context, Result
from ilm_ray.errors import UserError
from ilm_ray.observe.progress import Progress

FILES_PER_TASK = 64
BYTES_PER_SHARD = 32 * 2**20


def build_code_data(context: Context) -> Result:
    """Write `kept-*.jsonl.zst` and `order.json` into the stage's folder."""
    config = context.config.code
    root, (chosen, unnameable) = source_root(config), choose_files(config)
    facts = _facts_of(root, chosen)
    files = facts.keys()
    if not files:
        raise UserError(f"code.source: all {len(chosen)} files of {root} are blank or not UTF-8; name another folder")
    manifests = _facts_of(root, find_manifests(root, chosen))
    index = Index({**manifests, **facts})
    graph = {path: dependencies(path, index) for path in files}
    ordered = {name: dependency_order(members, graph) for name, members in repositories(files, graph).items()}
    sizes = {name: sum((root / path).stat().st_size for path in members) for name, members in ordered.items()}
    shards = _shards(sizes)
    write = functools.partial(
        _write_shard, root=str(root), folder=str(context.folder), max_tokens=config.max_document_tokens
    )
    items = [
        {"shard": n, "repositories": json.dumps({name: ordered[name] for name in names})}
        for n, names in enumerate(shards)
    ]
    documents = characters = 0
    progress = Progress("code", len(items))
    made = ray.data.from_items(items, override_num_blocks=len(items)).map(write)
    for done, row in enumerate(made.iter_rows(), 1):
        documents, characters = documents + row["documents"], characters + row["characters"]
        progress.update(done, documents=documents)
    order = {
        name: {"files": members, "edges": sum(len(graph[path]) for path in members)}
        for name, members in ordered.items()
    }
    order_file = context.folder / "order.json"
    write_text_atomic(order_file, json.dumps(order, indent=1, ensure_ascii=False))
    summary = {
        "files": len(files),
        "files_unreadable": len(chosen) - len(files),
        "files_with_unreadable_names": unnameable,
        "repositories": len(ordered),
        "imports_resolved": sum(map(len, graph.values())),
        "documents": documents,
        "characters": characters,
        "languages": ", ".join(sorted({LANGUAGES[Path(f).suffix].name for f in files if Path(f).suffix in LANGUAGES})),
    }
    return Result([context.folder / _name(n) for n in range(len(items))] + [order_file], {"summary": summary})


def _facts_of(root: Path, paths: list[str]) -> dict[str, Facts]:
    """What each readable file says, in the order of the paths."""
    if not paths:
        return {}
    read = functools.partial(_read_facts, root=str(root))
    rows = ray.data.from_items(
        [{"path": path} for path in paths], override_num_blocks=max(1, len(paths) // FILES_PER_TASK)
    )
    found = {row["path"]: json.loads(row["facts"]) for row in rows.map(read).iter_rows()}
    return {path: Facts.of_json(found[path]) for path in paths if found[path] is not None}


def _read_facts(row: dict[str, Any], root: str) -> dict[str, Any]:
    text = read_source(Path(root, row["path"]))
    # As JSON: a list that is empty in one block and filled in another has no common Arrow type.
    return {"path": row["path"], "facts": json.dumps(None if text is None else find_facts(row["path"], text))}


def _shards(sizes: dict[str, int]) -> list[list[str]]:
    """Repositories in order, gathered until a shard holds BYTES_PER_SHARD."""
    shards, held = list[list[str]](), BYTES_PER_SHARD
    for name, size in sizes.items():
        if held >= BYTES_PER_SHARD:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    return shards


def _write_shard(row: dict[str, Any], root: str, folder: str, max_tokens: int) -> dict[str, Any]:
    """Write one shard unless an earlier attempt has; files and bytes are the same however often this runs."""
    path = Path(folder) / _name(row["shard"])
    if not path.exists():
        write_jsonl(path, _rows(json.loads(row["repositories"]), Path(root), max_tokens))
    lengths = [len(document["text"]) for document in read_jsonl(path)]
    return {"documents": len(lengths), "characters": sum(lengths)}


def _rows(ordered: dict[str, list[str]], root: Path, max_tokens: int) -> Iterator[dict[str, Any]]:
    for name, members in ordered.items():
        texts = ((path, read_source(root / path)) for path in members)
        sections = ((path, file_section(path, text)) for path, text in texts if text is not None)
        yield from repository_rows(f"{root.name}/{name}", join_sections(sections, count_tokens, max_tokens))


def _name(shard: int) -> str:
    return f"kept-{shard:05d}.jsonl.zst"
