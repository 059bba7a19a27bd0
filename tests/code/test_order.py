"""Imports, repositories and their order: properties on random trees, and the running Python as the oracle."""

import ast
import random
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilm_ray.code.imports import Import, find_imports, resolve
from ilm_ray.code.markdown import repository_rows
from ilm_ray.code.order import dependency_order, is_documentation, repositories, strongly_connected

_FILES = [f"{folder}{name}" for folder in ("", "a/", "a/b/", "c/") for name in ("m.py", "n.py", "z.py", "README.md")]
_CODE = [f for f in _FILES if f.endswith(".py")]
_EDGES = st.sets(st.tuples(st.sampled_from(_CODE), st.sampled_from(_CODE)), max_size=30)


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen, todo = set[str](), [start]
    while todo:
        for target in graph[todo.pop()] - seen:
            seen.add(target)
            todo.append(target)
    return seen


@settings(max_examples=200)
@given(_EDGES, st.integers(0, 2**32))
def test_order(edges: set[tuple[str, str]], seed: int) -> None:
    graph = {f: {t for s, t in edges if s == f} - {f} for f in _FILES}
    order = dependency_order(_FILES, graph)
    assert sorted(order) == sorted(_FILES)
    shuffled = random.Random(seed).sample(_FILES, len(_FILES))
    assert dependency_order(shuffled, {f: graph[f] for f in shuffled}) == order
    at, reach = {f: i for i, f in enumerate(order)}, {f: _reachable(graph, f) for f in _FILES}
    for file in _CODE:
        for target in graph[file]:
            assert at[target] < at[file] or file in reach[target]
        cycle = {f for f in reach[file] if file in reach[f]}
        if cycle:
            assert min(cycle, key=at.__getitem__) == min(cycle)
    for document in filter(is_documentation, _FILES):
        folder = document.removesuffix("README.md")
        assert all(at[document] < at[f] for f in _CODE if f.startswith(folder))
    components = {frozenset(c) for c in strongly_connected({f: graph[f] for f in _CODE})}
    assert components == {frozenset({f} | {g for g in reach[f] if f in reach[g]}) for f in _CODE}


def test_without_imports_the_shorter_path_comes_first_and_a_long_cycle_is_no_problem() -> None:
    assert dependency_order(["a/b.py", "z.py", "a/b/c.py"], {}) == ["z.py", "a/b.py", "a/b/c.py"]
    names = [f"f{i:04}.py" for i in range(3000)]
    ring = {a: {b} for a, b in zip(names, names[1:] + names[:1], strict=True)}
    assert dependency_order(names, ring)[0] == names[0]


def test_repositories_are_what_imports_connect() -> None:
    graph = {"a/x.py": {"b/y.py"}, "c.py": {"d.py"}}
    found = repositories(["a/x.py", "b/y.py", "c.py", "d.py", "e/f.py", "README.md", "a/z.py"], graph)
    assert {name: sorted(files) for name, files in found.items()} == {
        "a": ["README.md", "a/x.py", "a/z.py", "b/y.py"],
        "c.py": ["c.py", "d.py"],
        "e": ["e/f.py"],
    }


@pytest.mark.parametrize(
    ("path", "text", "wanted"),
    [
        ("p/a.py", "from . import b, missing\nfrom .sub.c import x", {"p/b.py", "p/__init__.py", "p/sub/c.py"}),
        ("p/sub/c.py", "from .. import b  # note\nimport p.b as q, top", {"p/b.py", "top.py"}),
        ("p/a.py", "from p import (\n  b,  # one\n  sub,\n)", {"p/b.py", "p/sub/__init__.py"}),
        ("p/b.py", "import b", set()),  # a package's folder is on no path
        ("top.py", '"""\nimport p.b\n"""\nx = 1', set()),
        (
            "p/__init__.py",
            "from .a import used, unused\nfrom .b import *\nprint(used)\n__all__ = ['unused']",
            {"p/a.py"},
        ),
        ("p/__init__.py", "from .a import name\n__all__ = ['name']", set()),
        ("src/x.c", '#include "x.h"\n#include <lib/y.h>\n# include <stdio.h>', {"src/x.h", "include/lib/y.h"}),
    ],
)
def test_imports_resolve_to_files(path: str, text: str, wanted: set[str]) -> None:
    files = {"p/__init__.py", "p/a.py", "p/b.py", "p/sub/__init__.py", "p/sub/c.py", "top.py"}
    assert resolve(path, find_imports(path, text), files | {"src/x.h", "include/lib/y.h"}) == wanted


def test_imports_of_the_standard_library_agree_with_its_parser() -> None:
    agreeing = seen = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:80]:
        text = path.read_text(encoding="utf-8")
        parsed = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                parsed |= {Import(item.name) for item in node.names}
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                parsed |= {Import(module, "" if item.name == "*" else item.name) for item in node.names}
        found = set(find_imports(path.name, text))
        seen += len(parsed | found)
        agreeing += len(parsed & found)
    assert agreeing / seen > 0.98


def test_documents_hold_every_file_once_and_whole() -> None:
    sections = [(f"{i}.py", "x" * (10 + 7 * i)) for i in range(9)]
    rows = list(repository_rows("repo", sections, max_chars=60))
    assert [f for row in rows for f in row["files"]] == [path for path, _ in sections]
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(len(row["text"]) <= 60 or len(row["files"]) == 1 for row in rows)
