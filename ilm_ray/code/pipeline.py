"""The code stage on Ray Data: files (see `files/pipeline.py`), what they say of each other, repository documents."""

import functools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ray

from ilm_ray.code.documents import join_sections, repository_rows
from ilm_ray.code.facts import Facts, Index
from ilm_ray.code.files.forms import section
from ilm_ray.code.files.pipeline import Part, prepare_files
from ilm_ray.code.files.scores import TIERS
from ilm_ray.code.imports import dependencies, find_facts, has_facts
from ilm_ray.code.order import Graph, dependency_order, repositories
from ilm_ray.code.tokens import count_tokens
from ilm_ray.corpus.files import write_text_atomic
from ilm_ray.corpus.jsonl import read_jsonl, write_jsonl
from ilm_ray.corpus.stage import Context, Result
from ilm_ray.errors import UserError
from ilm_ray.observe.progress import Progress

BYTES_PER_SHARD = 32 * 2**20


class Kept(NamedTuple):
    """A file that becomes data: its part, the bytes of its text, its language."""

    part: int
    bytes: int
    language: str


class Known(NamedTuple):
    """A tree's files that become data, and the facts of these and of those that fell.

    What fell is in no document, but it says where the rest lies: manifests, an `__init__.py` that is empty or only
    hands names on.
    """

    kept: dict[str, Kept]
    facts: dict[str, Facts]


def build_code_data(context: Context) -> Result:
    """Write `kept-*.jsonl.zst`, `order.json` and the files beneath `files/` into the stage's folder."""
    config = context.config.code
    prepared = prepare_files(context.folder / "files", config)
    trees, tiers = _look_at(prepared.parts)
    if not any(known.kept for known in trees.values()):
        raise UserError(
            f"code.source: no file is left ({prepared.summary['removed_by_rule']}); name other sources, or look at "
            f"{context.folder / 'files'}/*/removed-*.jsonl.zst"
        )
    order: dict[str, dict[str, Any]] = {}
    shards = _Shards()
    for tree, known in trees.items():
        index = Index(known.facts)
        graph = {path: dependencies(path, index) & known.kept.keys() for path in known.kept}
        for name, members in _repositories(tree, known, graph, tree in prepared.whole).items():
            files = dependency_order(members, graph)
            order[name] = {"files": files, "edges": sum(len(graph[path]) for path in files)}
            shards.add(name, tree, files, known)
    write = functools.partial(
        _write_shard,
        folder=str(context.folder),
        parts=[str(part.kept) for part in prepared.parts],
        max_tokens=config.max_document_tokens,
    )
    items = [{"shard": n, "repositories": json.dumps(found)} for n, found in enumerate(shards.found)]
    documents = characters = 0
    progress = Progress("code", len(items))
    made = ray.data.from_items(items, override_num_blocks=len(items)).map(write)
    for done, row in enumerate(made.iter_rows(), 1):
        documents, characters = documents + row["documents"], characters + row["characters"]
        progress.update(done, documents=documents)
    order_file = context.folder / "order.json"
    write_text_atomic(order_file, json.dumps(order, indent=1, ensure_ascii=False))
    summary = prepared.summary | {
        "repositories": len(order),
        "imports_resolved": sum(found["edges"] for found in order.values()),
        "documents": documents,
        "characters": characters,
        "languages": ", ".join(sorted({kept.language for known in trees.values() for kept in known.kept.values()})),
    }
    written = [context.folder / _name(n) for n in range(len(items))]
    return Result([*written, order_file, *prepared.about], {"summary": summary, "tiers": tiers})


def _repositories(tree: str, known: Known, graph: Graph, whole: bool) -> dict[str, list[str]]:
    """Name -> files: an archive or git repository is one, of a folder what imports connect."""
    if not known.kept:
        return {}
    if whole:
        return {tree: sorted(known.kept)}
    return {f"{tree}/{name}": members for name, members in repositories(known.kept, graph).items()}


def _look_at(parts: list[Part]) -> tuple[dict[str, Known], dict[str, dict[str, int]]]:
    """Tree -> what is known of it; tier -> files and bytes, of the low tier those that fell."""
    items = [
        {"number": n, "kept": str(part.kept), "removed": [str(path) for path in part.removed]}
        for n, part in enumerate(parts)
    ]
    trees: dict[str, Known] = defaultdict(lambda: Known({}, {}))
    files, sizes = Counter[str](), Counter[str]()
    for row in ray.data.from_items(items, override_num_blocks=len(items)).map(_look_at_part).iter_rows():
        found = json.loads(row["found"])
        for tree, path, *about in found["kept"]:
            trees[tree].kept[path] = Kept(*about)
        for tree, path, facts in found["facts"]:
            trees[tree].facts[path] = Facts.of_json(facts)
        files.update(found["files"])
        sizes.update(found["sizes"])
    return dict(sorted(trees.items())), {tier: {"files": files[tier], "bytes": sizes[tier]} for tier in TIERS[::-1]}


def _look_at_part(item: dict[str, Any]) -> dict[str, Any]:
    """As JSON: a list that is empty in one block and filled in another has no common Arrow type."""
    kept, facts = list[Any](), list[Any]()
    files, sizes = Counter[str](), Counter[str]()
    for path in (item["kept"], *item["removed"]):
        for row in read_jsonl(Path(path)):
            stays = "drop_rule" not in row
            if stays:
                kept.append((row["repository"], row["path"], item["number"], row["bytes"], row["language"]))
            if stays or has_facts(row["path"]):
                facts.append((row["repository"], row["path"], find_facts(row["path"], row["text"])))
            if "tier" in row:
                files[row["tier"]] += 1
                sizes[row["tier"]] += row["bytes"]
    return {"found": json.dumps({"kept": kept, "facts": facts, "files": files, "sizes": sizes})}


class _Shards:
    """Repositories in order, gathered until a shard of documents holds BYTES_PER_SHARD."""

    def __init__(self) -> None:
        self.found: list[list[dict[str, Any]]] = []
        self._held = BYTES_PER_SHARD

    def add(self, name: str, tree: str, files: list[str], known: Known) -> None:
        if self._held >= BYTES_PER_SHARD:
            self.found.append([])
            self._held = 0
        parts = sorted({known.kept[path].part for path in files})
        self.found[-1].append({"name": name, "tree": tree, "files": files, "parts": parts})
        self._held += sum(known.kept[path].bytes for path in files)


def _write_shard(row: dict[str, Any], folder: str, parts: list[str], max_tokens: int) -> dict[str, Any]:
    """Write one shard unless an earlier attempt has; files and bytes are the same however often this runs."""
    path = Path(folder) / _name(row["shard"])
    if not path.exists():
        write_jsonl(path, _rows(json.loads(row["repositories"]), parts, max_tokens))
    lengths = [len(document["text"]) for document in read_jsonl(path)]
    return {"documents": len(lengths), "characters": sum(lengths)}


def _rows(found: list[dict[str, Any]], parts: list[str], max_tokens: int) -> Iterator[dict[str, Any]]:
    for repository in found:
        wanted = set(repository["files"])
        held = {
            row["path"]: row
            for part in repository["parts"]
            for row in read_jsonl(Path(parts[part]))
            if row["repository"] == repository["tree"] and row["path"] in wanted
        }
        rows = [held[path] for path in repository["files"]]
        sections = ((row["path"], section(row["path"], row["text"], row["language"])) for row in rows)
        for document in repository_rows(repository["name"], join_sections(sections, count_tokens, max_tokens)):
            members = [held[span["path"]] for span in document["files"]]
            size = sum(row["bytes"] for row in members)
            # A document's files may be of several tiers; it is drawn as often as its bytes are worth on average.
            document["weight"] = round(sum(row["weight"] * row["bytes"] for row in members) / size, 4)
            yield document


def _name(shard: int) -> str:
    return f"kept-{shard:05d}.jsonl.zst"
