"""The files of all trees on Ray Data: read, dedup, quality. Ray Data carries names; texts stay in the files."""

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray

from ilm_ray.base.files import temporary_path, write_text_atomic
from ilm_ray.config.data import CodeConfig
from ilm_ray.data.code.files import steps
from ilm_ray.data.code.files.selection import Selection, jsonable, part_of, scorer_files, select
from ilm_ray.data.dedup.drops import save_drops
from ilm_ray.data.dedup.pipeline import Signed, find_duplicates
from ilm_ray.data.documents.funnel import Funnel
from ilm_ray.data.documents.paths import drops_path, kept_and_removed, outputs, signatures_path
from ilm_ray.data.documents.sources import ROW_BITS
from ilm_ray.run.metrics import DOCUMENTS, counter
from ilm_ray.run.progress import Progress

# A partition of the shuffles is a process to start: it takes the signatures of 16,384 files, some 20 MB.
PARTS_PER_PARTITION = 64


class PartFiles(NamedTuple):
    """The rows of one part (see `steps`): the kept files, and those that each step removed, with `drop_rule`."""

    kept: Path
    removed: list[Path]


class Prepared(NamedTuple):
    """All files, part by part, and figures about them."""

    parts: list[PartFiles]
    whole: set[str]  # trees that are one repository each; the others may be many
    summary: dict[str, Any]
    about: list[Path]  # files with figures
    broken: dict[str, str]  # sources that cannot be read -> why


def prepare_files(folder: Path, config: CodeConfig) -> Prepared:
    """Every file read, judged, deduplicated and tiered; parts that a killed run finished are not done again."""
    selection = select(config)
    parts = selection.parts
    numbers = range(len(parts))
    progress = Progress("code files", 2 * len(parts))

    def code_read(row: dict[str, Any]) -> dict[str, int]:  # Ray shows these functions by their names
        steps.read_part(row["number"], part_of(json.loads(row["part"])), folder, config)
        return kept_and_removed(folder, "read", row["number"], "read")

    items = [{"number": n, "part": json.dumps(jsonable(part))} for n, part in enumerate(parts)]
    for done in _each(items, "read", code_read):
        progress.update(done)
    if not all(drops_path(folder, number).is_file() for number in numbers):
        _dedup(folder, len(parts), config)
    for path in scorer_files(config):  # a task may not see the configured folder
        _copy(path, folder / "scorer" / path.name)
    sizes = sum((steps.language_bytes(folder, number) for number in numbers), Counter[str]())
    shares = {language: size / sizes.total() for language, size in sizes.items()}
    licences = _licences(folder, selection)

    def code_quality(row: dict[str, Any]) -> dict[str, int]:
        steps.quality_part(row["number"], folder, config, shares, licences)
        return kept_and_removed(folder, "quality", row["number"], "quality")

    for done in _each([{"number": n} for n in numbers], "quality", code_quality):
        progress.update(len(parts) + done)
    funnel = Funnel()
    for step in steps.STEPS:
        for number in numbers:
            funnel.merge(json.loads(outputs(folder, step, number)[2].read_text(encoding="utf-8"))["funnel"])
    write_text_atomic(folder / "funnel.json", json.dumps(funnel.rows(), indent=1))
    return Prepared(
        [
            PartFiles(outputs(folder, "quality", number)[0], [outputs(folder, step, number)[1] for step in steps.STEPS])
            for number in numbers
        ],
        {part.tree.name for part in parts if part.tree.whole},
        _summary(funnel, selection),
        [folder / "funnel.json"],
        selection.broken,
    )


def _each(rows: list[dict[str, Any]], step: str, work: Callable[[dict[str, Any]], dict[str, int]]) -> Iterator[int]:
    """`work` on every row, a task each; its only effect is its files, so it may run twice. Yields how many are done.

    work: gives the files that `step` kept and removed; they are counted here, where a part arrives once.
    """
    made = ray.data.from_items(rows, override_num_blocks=len(rows)).map(work)
    for number, outcomes in enumerate(made.iter_rows(), 1):
        for outcome, files in outcomes.items():
            if files:  # Ray refuses to count by nothing
                counter(DOCUMENTS).inc(files, tags={"stage": f"code/{step}", "outcome": outcome})
        yield number


def _dedup(folder: Path, parts: int, config: CodeConfig) -> None:
    signed = [Signed(str(signatures_path(folder, number)), number) for number in range(parts)]
    drops = find_duplicates(signed, folder / "dedup", 1 + parts // PARTS_PER_PARTITION, config.threshold)
    keys = drops.ids >> np.uint64(ROW_BITS)
    for number in range(parts):
        save_drops(drops_path(folder, number), drops.part(keys == np.uint64(number)))


def _licences(folder: Path, selection: Selection) -> dict[str, dict[str, str]]:
    """Tree -> folder -> licence of the text that lies in it."""
    licences: dict[str, dict[str, str]] = defaultdict(dict)
    for number, part in enumerate(selection.parts):
        stats = json.loads(outputs(folder, "read", number)[2].read_text(encoding="utf-8"))
        licences[part.tree.name] |= stats["licences"]
    return dict(licences)


def _summary(funnel: Funnel, selection: Selection) -> dict[str, Any]:
    rows = funnel.rows()
    removed = Counter[str]()
    for row in rows:
        if row["rule"] != "kept":
            removed[row["rule"]] += row["documents"]
    return {
        "trees": len({part.tree.name for part in selection.parts}),
        "broken": len(selection.broken),
        "files_in": funnel.documents("read"),
        "files_kept": funnel.documents("quality", kept=True),
        **{f"removed_by_{step}": funnel.documents(step, kept=False) for step in steps.STEPS},
        "removed_by_rule": ", ".join(f"{rule} {count}" for rule, count in removed.most_common()),
        **{f"left_out_{reason}": count for reason, count in sorted(selection.left_out.items()) if count},
    }


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(target)
    shutil.copyfile(source, temporary)
    temporary.replace(target)
