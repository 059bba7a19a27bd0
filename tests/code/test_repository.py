"""Dependency order as a property, imports against Python's own parser."""

import ast
import random
import sysconfig
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.code.imports import imported_files
from ilm_ray.code.pipeline import choose_files
from ilm_ray.code.repository import dependency_order, import_edges, markdown_documents

NAMES = [f"{folder}{letter}.py" for folder in ("", "p/", "p/q/") for letter in "abcd"]


@given(st.sets(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=30), st.randoms())
def test_imports_come_first_unless_on_a_cycle(pairs: set[tuple[str, str]], rng: random.Random) -> None:
    edges: dict[str, set[str]] = {name: {b for a, b in pairs if a == name and b != a} for name in NAMES}
    order = dependency_order(edges)
    assert sorted(order) == sorted(NAMES)
    place = {name: i for i, name in enumerate(order)}
    graph = nx.DiGraph([(b, a) for a, targets in edges.items() for b in targets])
    cycles = {n: i for i, c in enumerate(nx.strongly_connected_components(graph)) for n in c}
    for name, targets in edges.items():
        for target in targets:
            assert place[target] < place[name] or cycles[target] == cycles[name]
    for members in nx.strongly_connected_components(graph):
        if len(members) > 1:
            assert min(members, key=place.__getitem__) == min(members)
    shuffled = list(edges.items())
    rng.shuffle(shuffled)
    assert dependency_order(dict(shuffled)) == order


def test_documentation_precedes_the_first_code_file_of_its_folder() -> None:
    texts = {
        "z.py": "",
        "README.md": "Hello",
        "pkg/__init__.py": "",
        "pkg/core.py": "import z\n",
        "pkg/notes.md": "notes",
        "docs/only.md": "text",
    }
    order = dependency_order(import_edges(texts))
    assert order.index("README.md") < order.index("z.py") < order.index("pkg/core.py")
    assert order.index("pkg/notes.md") < min(order.index("pkg/__init__.py"), order.index("pkg/core.py"))
    assert "docs/only.md" in order


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("import pkg.a", {"pkg/a.py"}),
        ("import pkg.a as x, top", {"pkg/a.py", "top.py"}),
        ("from pkg import a, b", {"pkg/a.py", "pkg/b.py"}),
        ("from pkg import (\n    a,  # first\n    b as c,\n)", {"pkg/a.py", "pkg/b.py"}),
        ("from pkg import name", {"pkg/__init__.py"}),
        ("from . import b", {"pkg/b.py"}),
        ("from .b import x", {"pkg/b.py"}),
        ("from .. import top", {"top.py"}),
        ("if x:\n    import top", {"top.py"}),
        ("text = 'import top'", set()),
        ("import os", set()),
    ],
)
def test_python_imports(statement: str, expected: set[str]) -> None:
    files = frozenset({"top.py", "pkg/__init__.py", "pkg/a.py", "pkg/b.py", "pkg/here.py"})
    assert imported_files("pkg/here.py", statement + "\n", files) == expected


def test_includes_resolve_beside_the_file_first() -> None:
    files = frozenset({"src/a.h", "include/a.h", "include/b.h", "src/main.c"})
    text = '#include "a.h"\n#  include <b.h>\n#include <stdio.h>\n'
    assert imported_files("src/main.c", text, files) == {"src/a.h", "include/b.h"}


def test_regular_expression_finds_what_the_parser_finds_in_the_standard_library() -> None:
    folder = Path(sysconfig.get_path("stdlib"))
    names = choose_files(folder, 150, 60_000)
    files = frozenset(names)
    for name in (n for n in names if n.endswith(".py")):
        text = (folder / name).read_text(encoding="utf-8", errors="replace")
        parsed = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                parsed |= {f"{alias.name.replace('.', '/')}.py" for alias in node.names}
        found = imported_files(name, text, files)
        assert (parsed & files) - {name} <= found, name


def test_documents_split_at_file_borders_and_mask_addresses() -> None:
    texts = {f"f{i}.py": f"x = {i}  # by someone{i}@host.org\n" * 20 for i in range(10)}
    documents = markdown_documents(sorted(texts), texts, max_chars=2000)
    assert [f for d in documents for f in d["files"]] == sorted(texts)
    assert len(documents) > 1 and all(len(d["text"]) <= 2000 for d in documents)
    assert "host.org" not in "".join(d["text"] for d in documents)
