"""Which files of which trees a run reads, frozen before anything is read."""

import hashlib
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ilm_ray.base.errors import UserError
from ilm_ray.base.places import located
from ilm_ray.config.data import CodeConfig
from ilm_ray.data.code.files.entries import Entry, ReadLimits
from ilm_ray.data.code.files.filters import is_beside, path_verdict
from ilm_ray.data.code.files.trees import Tree, TreePart, find_trees, fingerprint, list_tree, split_parts

FILES_PER_PART = 256


class Selection(NamedTuple):
    """The files of each task, in a frozen order, how many files were left out unread, by reason, and the sources that
    cannot be read: location -> why."""

    parts: list[TreePart]
    left_out: Counter[str]
    broken: dict[str, str]


def select(config: CodeConfig) -> Selection:
    """At most `max_files` files of each tree; those that fall by their names, licence texts and manifests come on top.

    Where there are more, its top-level folders and modules are taken in the order of the hash of their names: a fair
    sample in which packages are whole, but for the last one.
    A source that is damaged is left out and named. Raises UserError where nothing else is left.
    """
    left_out, parts, total = Counter[str](), list[TreePart](), 0
    trees, broken = find_trees(config)
    for tree in trees:
        try:
            listing = list_tree(tree, limits(config))
        except UserError as error:
            if len(trees) == 1 or tree.kind == "folder":
                raise
            broken[tree.location] = str(error)
            continue
        code, beside = list[Entry](), list[Entry]()
        for entry in listing.entries:
            (beside if is_beside(entry.path) or _falls(entry, config) else code).append(entry)
        code.sort(key=partial(_sample_key, tree))
        taken = code[: config.max_files]
        left_out += listing.left_out + Counter({"beyond_max_files": len(code) - len(taken)})
        parts += split_parts(tree, sorted(taken + beside), FILES_PER_PART)
        total += len(code)
    if not total:
        named = ", ".join(tree.location for tree in trees)
        raise UserError(
            f"code.source: {named} holds no source code in files of at most {config.max_file_bytes} bytes; "
            "name a folder, archive or git repository with source code, or raise code.max_file_bytes"
        )
    return Selection(parts, left_out, broken)


def tree_fingerprints(config: CodeConfig) -> dict[str, str]:
    """Identity of everything that a run reads from outside. Raises UserError where something cannot be read."""
    if not config.source:
        return {}
    selection = select(config)
    entries_of: dict[Tree, list[Entry]] = {}
    for part in selection.parts:
        entries_of.setdefault(part.tree, []).extend(part.entries)
    named = {f"broken {place}": why for place, why in selection.broken.items()}
    for tree, entries in entries_of.items():
        falls = [_falls(entry, config) for entry in entries]
        read, unread = (
            [e for e, fallen in zip(entries, falls, strict=True) if fallen is which] for which in (False, True)
        )
        named[f"tree {tree.name}"] = fingerprint(tree, read, unread)
    for path in scorer_files(config):
        named[f"code.scorer {path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return named


def scorer_files(config: CodeConfig) -> list[Path]:
    """scorer.npz and card.json of `code.scorer`; none where it names none. Raises UserError where they are missing."""
    if config.scorer is None:
        return []
    paths = [Path(located(config.scorer), name) for name in ("scorer.npz", "card.json")]
    for path in paths:
        if not path.is_file():
            raise UserError(f"code.scorer: {path} is missing; name a folder that jobs/label_code.py wrote")
    return paths


def limits(config: CodeConfig) -> ReadLimits:
    """Bounds on the cost of archives, from `code.max_*`."""
    return ReadLimits(config.max_file_bytes, config.max_archive_bytes, config.max_archive_members)


def jsonable(part: TreePart) -> dict[str, Any]:
    """The part as a row that Ray Data carries."""
    return {"tree": asdict(part.tree), "entries": part.entries}


def part_of(row: dict[str, Any]) -> TreePart:
    """The part behind a row of `jsonable`."""
    tree = Tree(**row["tree"] | {"pruned": tuple(row["tree"]["pruned"])})
    return TreePart(tree, [Entry(*entry) for entry in row["entries"]])


def _falls(entry: Entry, config: CodeConfig) -> bool:
    """Whether a file falls by its name and size, and is not read."""
    return path_verdict(entry.path, entry.size, config.max_file_bytes) is not None


def _sample_key(tree: Tree, entry: Entry) -> tuple[bytes, str]:
    top = f"{tree.name}/{entry.path.split('/', 1)[0]}"
    return hashlib.sha256(top.encode()).digest(), entry.path
