"""The code stage on Ray Data: files (see `files/pipeline.py`), their imports, repository documents.

Each repository is written twice: `kept-*`, in the order of its dependencies, for pre-training, and `finetuning-*`,
depth first with prompts and without Python files of low lint scores (report section 4.4).
"""

import functools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, NamedTuple

import ray

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.base.jsonl import JsonlWriter, read_jsonl
from ilm_ray.config.named_data import stage_off
from ilm_ray.data.code.documents import join_sections, repository_documents
from ilm_ray.data.code.files.forms import CodeText, section
from ilm_ray.data.code.files.pipeline import PartFiles, prepare_files
from ilm_ray.data.code.files.scores import TIERS
from ilm_ray.data.code.languages.facts import Facts, ModuleIndex
from ilm_ray.data.code.languages.imports import dependencies, find_facts, has_facts
from ilm_ray.data.code.order import Graph, dependency_order, repositories
from ilm_ray.data.code.prompts import prompted_documents
from ilm_ray.data.code.tokens import count_tokens
from ilm_ray.data.documents.document import Document, read_documents
from ilm_ray.run.progress import Progress
from ilm_ray.run.stage import Context, Result

BYTES_PER_SHARD = 32 * 2**20
FORMS = ("kept", "finetuning", "finetuning-removed")
COUNTED = ("documents", "characters", "finetuning_documents", "finetuning_characters", "finetuning_files_removed")


class Kept(NamedTuple):
    """A file that becomes data: its part, the bytes of its text, its language."""

    part: int
    bytes: int
    language: str


class Known(NamedTuple):
    """A tree's files that become data, and the facts of these and of those that fell.

    Files that fell are in no document, but they say where the rest lies: manifests, an `__init__.py` that is empty or
    only hands names on.
    """

    kept: dict[str, Kept]
    facts: dict[str, Facts]
    copies: dict[str, str]  # duplicate that fell -> the copy in the same tree that stays: whoever imports it needs that

    def graph(self) -> Graph:
        """File -> the files that it imports, of those that become data."""
        index = ModuleIndex(self.facts)
        edges = {}
        for path in self.kept:
            targets = {self.copies.get(target, target) for target in dependencies(path, index)}
            edges[path] = targets & self.kept.keys() - {path}
        return edges


def build_code_data(context: Context) -> Result:
    """Write `kept-*.jsonl.zst`, `order.json` and the files beneath `files/`; nothing where no source is named."""
    if off := stage_off(context.config, "code"):
        return Result([], {"summary": {"trees": 0, "documents": 0}, "off": off})
    config = context.config.code
    prepared = prepare_files(context.folder / "files", config)
    for place, why in prepared.broken.items():
        context.journal.event("drop", source=place, why=why)
    trees, tiers = _look_at(prepared.parts)
    if not any(known.kept for known in trees.values()):
        raise UserError(
            f"code.source: no file is left ({prepared.summary['removed_by_rule']}); name other sources, or look at "
            f"{context.folder / 'files'}/*/removed-*.jsonl.zst"
        )
    order: dict[str, dict[str, Any]] = {}
    shards = _Shards()
    for tree, known in trees.items():
        graph = known.graph()
        for name, members in _repositories(tree, known, graph, tree in prepared.whole).items():
            files = dependency_order(members, graph)
            order[name] = {"files": files, "edges": sum(len(graph[path]) for path in files)}
            shards.add(name, tree, files, known, graph)
    write = functools.partial(
        _write_shard,
        folder=str(context.folder),
        parts=[str(part.kept) for part in prepared.parts],
        max_tokens=config.max_document_tokens,
        min_lint_score=config.min_lint_score,
    )
    items = [
        {"shard": n, "repositories": json.dumps(repositories)} for n, repositories in enumerate(shards.repositories)
    ]
    counts = Counter[str]()
    progress = Progress("code", len(items))
    made = ray.data.from_items(items, override_num_blocks=len(items)).map(write)
    for done, row in enumerate(made.iter_rows(), 1):
        counts.update(row)
        progress.update(done, documents=counts["documents"])
    order_file = context.folder / "order.json"
    write_text_atomic(order_file, json.dumps(order, indent=1, ensure_ascii=False))
    summary = prepared.summary | {
        "repositories": len(order),
        "imports_resolved": sum(entry["edges"] for entry in order.values()),
        **{unit: counts[unit] for unit in COUNTED},
        "languages": ", ".join(sorted({kept.language for known in trees.values() for kept in known.kept.values()})),
    }
    written = [context.folder / _name(n, form) for form in FORMS for n in range(len(items))]
    return Result([*written, order_file, *prepared.about], {"summary": summary, "tiers": tiers})


def _repositories(tree: str, known: Known, graph: Graph, whole: bool) -> dict[str, list[str]]:
    """Name -> files: an archive or git repository is one, of a folder what imports connect."""
    if not known.kept:
        return {}
    if whole:
        return {tree: sorted(known.kept)}
    return {f"{tree}/{name}": members for name, members in repositories(known.kept, graph).items()}


def _look_at(parts: list[PartFiles]) -> tuple[dict[str, Known], dict[str, dict[str, int]]]:
    """Tree -> its facts; tier -> files and bytes, of the low tier those that fell."""
    items = [
        {"number": n, "kept": str(part.kept), "removed": [str(path) for path in part.removed]}
        for n, part in enumerate(parts)
    ]
    trees: dict[str, Known] = defaultdict(lambda: Known({}, {}, {}))
    places = dict[int, tuple[str, str]]()
    duplicates = list[tuple[str, str, int]]()
    files, sizes = Counter[str](), Counter[str]()
    for row in ray.data.from_items(items, override_num_blocks=len(items)).map(_look_at_part).iter_rows():
        record = json.loads(row["found"])
        for tree, path, file, *about in record["kept"]:
            trees[tree].kept[path] = Kept(*about)
            places[file] = (tree, path)
        duplicates += record["duplicates"]
        for tree, path, facts in record["facts"]:
            trees[tree].facts[path] = Facts.of_json(facts)
        files.update(record["files"])
        sizes.update(record["sizes"])
    for tree, path, copy in duplicates:
        holder, stays = places.get(copy, ("", ""))  # a copy can fall too, by its quality
        if holder == tree:
            trees[tree].copies[path] = stays
    return dict(sorted(trees.items())), {tier: {"files": files[tier], "bytes": sizes[tier]} for tier in TIERS[::-1]}


def _look_at_part(item: dict[str, Any]) -> dict[str, Any]:
    """As JSON: a list that is empty in one block and filled in another has no common Arrow type."""
    kept, facts, duplicates = list[Any](), list[Any](), list[Any]()
    files, sizes = Counter[str](), Counter[str]()
    for path in (item["kept"], *item["removed"]):
        for document in read_documents(Path(path)):
            place = document.columns["repository"], document.columns["path"]
            stays = document.drop_rule is None
            if stays:
                kept.append((*place, document.id, item["number"], document.bytes, document.language))
            elif document.duplicate_of is not None:
                duplicates.append((*place, document.duplicate_of))
            if stays or has_facts(place[1]):
                facts.append((*place, find_facts(place[1], document.text)))
            if (tier := document.columns.get("tier")) is not None:
                files[tier] += 1
                sizes[tier] += document.bytes
    return {
        "found": json.dumps({"kept": kept, "duplicates": duplicates, "facts": facts, "files": files, "sizes": sizes})
    }


class _Shards:
    """Repositories in order, gathered until a shard of documents holds BYTES_PER_SHARD."""

    def __init__(self) -> None:
        self.repositories: list[list[dict[str, Any]]] = []
        self._held = BYTES_PER_SHARD

    def add(self, name: str, tree: str, files: list[str], known: Known, graph: Graph) -> None:
        if self._held >= BYTES_PER_SHARD:
            self.repositories.append([])
            self._held = 0
        parts = sorted({known.kept[path].part for path in files})
        needs = {path: sorted(graph[path]) for path in files}
        self.repositories[-1].append({"name": name, "tree": tree, "files": files, "parts": parts, "needs": needs})
        self._held += sum(known.kept[path].bytes for path in files)


def _write_shard(
    row: dict[str, Any], folder: str, parts: list[str], max_tokens: int, min_lint_score: float | None
) -> dict[str, int]:
    """Write the files of one shard that an earlier attempt has not; the bytes are the same however often this runs."""
    paths = [Path(folder) / _name(row["shard"], form) for form in FORMS]
    if not all(path.exists() for path in paths):
        with JsonlWriter(paths[0]) as kept, JsonlWriter(paths[1]) as finetuning, JsonlWriter(paths[2]) as removed:
            repositories = json.loads(row["repositories"])
            files = _files(repositories, parts)
            for repository in repositories:
                held = {path: files[repository["tree"], path] for path in repository["files"]}
                for document in _documents(repository, held, max_tokens):
                    kept.write(document.row())
                low = {path: fallen for path in held if (fallen := _fallen(held[path], min_lint_score)) is not None}
                for path in sorted(low):
                    removed.write(low[path])
                for document in _finetuning_documents(repository, held, low.keys(), max_tokens):
                    finetuning.write(document.row())
    lengths, tuned = ([document.chars for document in read_documents(path)] for path in paths[:2])
    fallen_files = sum(1 for _ in read_jsonl(paths[2]))
    counts = (len(lengths), sum(lengths), len(tuned), sum(tuned), fallen_files)
    return dict(zip(COUNTED, counts, strict=True))


def _files(repositories: list[dict[str, Any]], parts: list[str]) -> dict[tuple[str, str], Document]:
    """(tree, path) -> each file of a shard's repositories. Each part is read once, however many share it."""
    wanted = {(repository["tree"], path) for repository in repositories for path in repository["files"]}
    needed = sorted({part for repository in repositories for part in repository["parts"]})
    files = (file for part in needed for file in read_documents(Path(parts[part])))
    return {key: file for file in files if (key := (file.columns["repository"], file.columns["path"])) in wanted}


def _documents(repository: dict[str, Any], held: dict[str, Document], max_tokens: int) -> Iterator[Document]:
    sections = ((path, section(path, file.text, file.language)) for path, file in held.items())
    for document in repository_documents(repository["name"], join_sections(sections, count_tokens, max_tokens)):
        members = [held[span["path"]] for span in document.columns["files"]]
        size = sum(file.bytes for file in members)
        # A document's files may be of several tiers; it is drawn as often as its bytes are worth on average.
        weight = sum(file.columns["weight"] * file.bytes for file in members) / size
        document.columns["weight"] = round(weight, 4)
        yield document


def _finetuning_documents(
    repository: dict[str, Any], held: dict[str, Document], low: Set[str], max_tokens: int
) -> Iterator[Document]:
    """The repository once more, depth first and with prompts; its documents have ids of their own."""
    forms = {path: CodeText(file.text, file.language) for path, file in held.items() if path not in low}
    if not forms:
        return
    graph = {path: set(targets) for path, targets in repository["needs"].items()}
    documents = prompted_documents(repository["name"], forms, graph, count_tokens, max_tokens)
    for document in repository_documents(f"{repository['name']}#finetuning", documents):
        document.columns["repository"] = repository["name"]
        yield document


def _fallen(file: Document, min_lint_score: float | None) -> dict[str, Any] | None:
    """The reason why a file is not in the fine-tuning form, or None. A file on which pylint fails stays."""
    score = file.columns.get("lint_score")
    if min_lint_score is None or score is None or score >= min_lint_score:
        return None
    about = {name: file.columns[name] for name in ("repository", "path", "lint_found")}
    fate = {"drop_rule": "lint_score", "drop_value": score, "threshold": min_lint_score}
    return {"id": str(file.id)} | about | fate


def _name(shard: int, form: str) -> str:
    return f"{form}-{shard:05d}.jsonl.zst"
