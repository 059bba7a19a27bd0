"""Repositories and their order: properties on random trees, a slow version of the rules, real packages."""

import importlib.util
import posixpath
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ilm_ray.data.code.languages.facts import ModuleIndex
from ilm_ray.data.code.languages.imports import dependencies, find_facts
from ilm_ray.data.code.order import (
    OPENED,
    dependency_order,
    depth_first_order,
    is_documentation,
    repositories,
    strongly_connected,
)
from tests.data.code.test_imports import standard_library

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


def _slow_order(files: set[str], graph: dict[str, set[str]]) -> list[str]:
    """The rules word by word, for code in small cycles: look at everything again before each file."""
    reach = {f: _reachable({g: graph[g] & files for g in files}, f) for f in files}
    cycle = {f: frozenset({f} | {g for g in reach[f] if f in reach[g]}) for f in files}

    def path_down(start: frozenset[str]) -> int:
        steps, level = 0, {start}
        while all({t for f in group for t in graph[f] & files} - group for group in level):
            level = {cycle[t] for group in level for f in group for t in graph[f] & files} - level
            steps += 1
        return steps

    order = list[str]()
    while len(order) < len(files):
        ready = [
            c
            for c in set(cycle.values())
            if c.isdisjoint(order) and {t for f in c for t in graph[f] & files} <= {*c, *order}
        ]
        chosen = min(ready, key=lambda c: (path_down(c), min((f.count("/"), f) for f in c)))
        first = min(chosen)
        order += [first, *_slow_order(set(chosen) - {first}, graph)]
    return order


@settings(max_examples=150)
@given(_EDGES)
def test_order_follows_the_rules_word_by_word(edges: set[tuple[str, str]]) -> None:
    graph = {f: {t for s, t in edges if s == f} - {f} for f in _CODE}
    assert dependency_order(_CODE, graph) == _slow_order(set(_CODE), graph)


@given(_EDGES, st.integers(0, 2**32))
def test_depth_first_order_keeps_what_a_file_alone_needs_beside_it(edges: set[tuple[str, str]], seed: int) -> None:
    graph = {f: {t for s, t in edges if s == f} - {f} for f in _FILES}
    order = depth_first_order(_FILES, graph)
    assert sorted(order) == sorted(_FILES)
    shuffled = random.Random(seed).sample(_FILES, len(_FILES))
    assert depth_first_order(shuffled, {f: graph[f] for f in shuffled}) == order
    at, reach = {f: i for i, f in enumerate(order)}, {f: _reachable(graph, f) for f in _FILES}
    assert all(at[t] < at[f] or f in reach[t] for f in _CODE for t in graph[f])


def test_without_imports_the_shorter_path_comes_first_and_a_long_cycle_is_no_problem() -> None:
    assert dependency_order(["a/b.py", "z.py", "a/b/c.py"], {}) == ["z.py", "a/b.py", "a/b/c.py"]
    names = [f"f{i:04}.py" for i in range(3000)]
    ring = {a: {b} for a, b in zip(names, names[1:] + names[:1], strict=True)}
    assert dependency_order(names, ring)[0] == names[0]
    assert len(names) >= 2 * OPENED  # so that several files open it


def test_depth_first_and_by_the_shortest_path() -> None:
    graph = {"a.py": {"b.py"}, "b.py": {"c.py"}, "c.py": set[str](), "d.py": {"b.py", "e.py"}, "e.py": set[str]()}
    assert depth_first_order(graph, graph) == ["e.py", "c.py", "b.py", "d.py", "a.py"]
    # d.py reaches the ground by way of e.py in one step, a.py needs two
    assert dependency_order(graph, graph) == ["c.py", "e.py", "b.py", "d.py", "a.py"]


@pytest.mark.long
@pytest.mark.parametrize("name", ["standard library", "networkx", "jinja2", "pydantic"])
def test_real_repositories(name: str) -> None:
    if name == "standard library":
        texts = standard_library()
    else:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        root = Path(spec.origin).parent
        texts = {f"{name}/{p.relative_to(root).as_posix()}": p.read_text() for p in sorted(root.rglob("*.py"))}
    texts = {**texts, **{f"{folder}/README.md": "" for folder in {posixpath.dirname(p) for p in texts} if folder}}
    index = ModuleIndex({path: find_facts(path, text) for path, text in texts.items()})
    graph = {path: dependencies(path, index) for path in texts}
    order = dependency_order(texts, graph)
    assert sum(map(len, graph.values())) > 20
    assert sorted(order) == sorted(texts)
    at = {path: i for i, path in enumerate(order)}
    edges = np.array([(at[path], at[target]) for path in texts for target in graph[path]])
    matrix = coo_matrix((np.ones(len(edges)), edges.T), shape=(len(order), len(order)))
    _, component = connected_components(matrix, directed=True, connection="strong")
    importer, target = edges.T
    assert np.all((target < importer) | (component[target] == component[importer]))
    for label in np.unique(component[importer]):
        members = [order[i] for i in np.flatnonzero(component == label)]
        assert members[0] == min(members)
    for document in filter(is_documentation, order):
        assert all(
            at[document] < at[p]
            for p in order
            if p.startswith(document.removesuffix("README.md")) and p != document and not is_documentation(p)
        )
    for seed in range(3):
        shuffled = random.Random(seed).sample(order, len(order))
        again = ModuleIndex({path: index.facts[path] for path in shuffled})
        assert dependency_order(shuffled, {path: dependencies(path, again) for path in shuffled}) == order


def test_repositories_are_what_imports_connect() -> None:
    graph = {"a/x.py": {"b/y.py"}, "c.py": {"d.py"}}
    groups = repositories(["a/x.py", "b/y.py", "c.py", "d.py", "e/f.py", "README.md", "a/z.py"], graph)
    assert {name: sorted(files) for name, files in groups.items()} == {
        "a": ["README.md", "a/x.py", "a/z.py", "b/y.py"],
        "c.py": ["c.py", "d.py"],
        "e": ["e/f.py"],
    }


def test_documentation_is_told_by_the_name() -> None:
    prose = ["a/README", "x.md", "x.rst", "x.html", "x.HTM", "x.txt", "x.adoc", "docs/x.xml"]
    code = ["x.py", "x.ipynb", "CMakeLists.txt", "Makefile", "noending", "x.lua", "x.css"]
    assert [path for path in prose + code if is_documentation(path)] == prose
