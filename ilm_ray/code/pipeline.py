"""The code stage on Ray Data: files (see `files/pipeline.py`), imports of every file, documents of every repository."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from ilm_ray.code.files.forms import section
from ilm_ray.code.files.pipeline import Prepared, prepare_files
from ilm_ray.code.imports import Import, find_imports, resolve
from ilm_ray.code.markdown import repository_rows
from ilm_ray.code.order import dependency_order, repositories
from ilm_ray.corpus.files import write_text_atomic
from ilm_ray.corpus.jsonl import read_jsonl, write_jsonl
from ilm_ray.corpus.stage import Context, Result
from ilm_ray.errors import UserError
from ilm_ray.observe.progress import Progress

BYTES_PER_SHARD = 32 * 2**20

Files = dict[str, dict[str, Any]]  # path -> {"imports", "bytes", "shard"} of the kept files of one tree


def build_code_data(context: Context) -> Result:
    """Write `kept-*.jsonl.zst`, `order.json` and the files beneath `files/` into the stage's folder."""
    config = context.config.code
    prepared = prepare_files(context.folder / "files", config)
    trees = _kept_files(prepared.shards)
    if not trees:
        raise UserError(
            f"code.source: no file is left ({prepared.summary['removed_by_rule']}); name other sources, or look at "
            f"{context.folder / 'files'}/*/removed-*.jsonl.zst"
        )
    ordered: dict[str, list[str]] = {}
    edges: dict[str, int] = {}
    shards = _Shards()
    for tree, files in trees.items():
        graph = {path: resolve(path, found["imports"], files.keys()) for path, found in files.items()}
        for name, members in _repositories(tree, files, graph, prepared).items():
            ordered[name] = dependency_order(members, graph)
            edges[name] = sum(len(graph[path]) for path in members)
            shards.add(name, tree, ordered[name], files)
    write = functools.partial(
        _write_shard,
        folder=str(context.folder),
        files=[str(path) for path in prepared.shards],
        max_chars=config.max_document_chars,
    )
    items = [{"shard": n, "repositories": json.dumps(found)} for n, found in enumerate(shards.found)]
    documents = characters = 0
    progress = Progress("code", len(items))
    made = ray.data.from_items(items, override_num_blocks=len(items)).map(write)
    for done, row in enumerate(made.iter_rows(), 1):
        documents, characters = documents + row["documents"], characters + row["characters"]
        progress.update(done, documents=documents)
    order = {name: {"files": members, "edges": edges[name]} for name, members in ordered.items()}
    order_file = context.folder / "order.json"
    write_text_atomic(order_file, json.dumps(order, indent=1, ensure_ascii=False))
    summary = prepared.summary | {
        "repositories": len(ordered),
        "imports_resolved": sum(edges.values()),
        "documents": documents,
        "characters": characters,
        "languages": ", ".join(sorted({found["language"] for files in trees.values() for found in files.values()})),
    }
    kept = [context.folder / _name(n) for n in range(len(items))]
    return Result([*kept, order_file, *prepared.about], {"summary": summary})


def _repositories(tree: str, files: Files, graph: dict[str, set[str]], prepared: Prepared) -> dict[str, list[str]]:
    """Name -> files: an archive or git repository is one, of a folder what imports connect."""
    if tree in prepared.whole:
        return {tree: sorted(files)}
    return {f"{tree}/{name}": members for name, members in repositories(files, graph).items()}


def _kept_files(shards: list[Path]) -> dict[str, Files]:
    """Tree -> its kept files, in the order of the paths."""
    items = [{"number": n, "path": str(path)} for n, path in enumerate(shards)]
    trees: dict[str, Files] = {}
    for part in ray.data.from_items(items, override_num_blocks=len(items)).map(_look_at_part).iter_rows():
        for tree, path, about in json.loads(part["files"]):
            about["imports"] = [Import(*pair) for pair in about["imports"]]
            trees.setdefault(tree, {})[path] = about
    return {tree: dict(sorted(files.items())) for tree, files in sorted(trees.items())}


def _look_at_part(item: dict[str, Any]) -> dict[str, Any]:
    found = [
        (
            row["repository"],
            row["path"],
            {"imports": find_imports(row["path"], row["text"]), "shard": item["number"]}
            | {key: row[key] for key in ("bytes", "language")},
        )
        for row in read_jsonl(Path(item["path"]))
    ]
    # As JSON: a list that is empty in one block and filled in another has no common Arrow type.
    return {"files": json.dumps(found)}


class _Shards:
    """Repositories in order, gathered until a shard of documents holds BYTES_PER_SHARD."""

    def __init__(self) -> None:
        self.found: list[list[dict[str, Any]]] = []
        self._held = BYTES_PER_SHARD

    def add(self, name: str, tree: str, members: list[str], files: Files) -> None:
        if self._held >= BYTES_PER_SHARD:
            self.found.append([])
            self._held = 0
        shards = sorted({files[path]["shard"] for path in members})
        self.found[-1].append({"name": name, "tree": tree, "files": members, "shards": shards})
        self._held += sum(files[path]["bytes"] for path in members)


def _write_shard(row: dict[str, Any], folder: str, files: list[str], max_chars: int) -> dict[str, Any]:
    """Write one shard unless an earlier attempt has; files and bytes are the same however often this runs."""
    path = Path(folder) / _name(row["shard"])
    if not path.exists():
        write_jsonl(path, _rows(json.loads(row["repositories"]), files, max_chars))
    lengths = [len(document["text"]) for document in read_jsonl(path)]
    return {"documents": len(lengths), "characters": sum(lengths)}


def _rows(found: list[dict[str, Any]], files: list[str], max_chars: int) -> Iterator[dict[str, Any]]:
    for repository in found:
        wanted = set(repository["files"])
        held = {
            row["path"]: row
            for shard in repository["shards"]
            for row in read_jsonl(Path(files[shard]))
            if row["repository"] == repository["tree"] and row["path"] in wanted
        }
        rows = [held[path] for path in repository["files"]]
        sections = ((row["path"], section(row["path"], row["text"], row["language"])) for row in rows)
        for document in repository_rows(repository["name"], sections, max_chars):
            members = [held[path] for path in document["files"]]
            size = sum(row["bytes"] for row in members)
            # A document's files may be of several tiers; it is drawn as often as its bytes are worth on average.
            document["weight"] = round(sum(row["weight"] * row["bytes"] for row in members) / size, 4)
            yield document


def _name(shard: int) -> str:
    return f"kept-{shard:05d}.jsonl.zst"
