"""No arrow runs up: a folder imports from its own files and from floors below (docs/architecture.md)."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up. Folders of one floor do not import each other.
FLOORS = (
    ("ilm_ray/base",),
    ("ilm_ray/config", "ilm_ray/model"),
    ("ilm_ray/run",),
    ("ilm_ray/data/documents",),
    ("ilm_ray/data/dedup",),
    ("ilm_ray/data/tokenizer",),
    ("ilm_ray/data/tokens",),
    ("ilm_ray/data/web", "ilm_ray/data/code", "ilm_ray/data/decontamination", "ilm_ray/data/longtext"),
    ("ilm_ray/training", "ilm_ray/serving"),
    ("ilm_ray/alignment", "ilm_ray/evaluation"),
    ("ilm_ray/report",),
    ("actors",),
    ("jobs",),
    ("cluster",),
    ("benchmarks",),
    ("tests",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
APART = ("demo",)  # tied to nothing: no folder of FLOORS but tests imports it


def room_of(path: Path) -> str | None:
    """The room that holds a file or module of the repository; None for what is none of ours."""
    parts = path.parts
    return next((room for n in (3, 2, 1) if (room := "/".join(parts[:n])) in FLOOR or room in APART), None)


def imported(tree: ast.AST, path: Path) -> Iterator[Path]:
    """The modules that a file names in its imports, wherever in the file they stand, as paths without suffix."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Path(*alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = Path(*(node.module or "").split("."))
            yield from (module / alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield Path(*path.parts[: -node.level])


@functools.lru_cache(maxsize=1)
def arrows(root: Path) -> set[tuple[str, str, str]]:
    """(file, its room, another room that it imports from), for every file in a room."""
    seen = set[tuple[str, str, str]]()
    for file in (file for room in (*FLOOR, *APART) for file in (root / room).rglob("*.py")):
        name = file.relative_to(root)
        room = room_of(name)
        for module in imported(ast.parse(file.read_text(encoding="utf-8")), name):
            other = room_of(module)
            if room is not None and other not in (None, room):
                seen.add((str(name), room, str(other)))
    return seen


def test_no_arrow_runs_up() -> None:
    every = arrows(ROOT)
    assert len(every) > 500, "the arrows were not seen"
    up = {arrow for arrow in every if not {*arrow[1:]} & {*APART} and FLOOR[arrow[2]] >= FLOOR[arrow[1]]}
    assert up == set()


def test_nothing_but_tests_imports_the_demo() -> None:
    assert {room for _, room, other in arrows(ROOT) if other in APART} <= {"tests"}


@pytest.mark.parametrize(
    ("line", "room"),
    [
        ("from ilm_ray.data.web.clean.rules import score_batch", "ilm_ray/data/web"),
        ("from ilm_ray.data import web", "ilm_ray/data/web"),
        ("import actors.group", "actors"),
        ("def f():\n    from jobs import ppo", "jobs"),
        ("import torch", None),
    ],
)
def test_imports_are_seen_in_every_form(line: str, room: str | None) -> None:
    assert [room_of(module) for module in imported(ast.parse(line), Path("x.py"))] == [room]
