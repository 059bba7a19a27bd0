"""Repositories and their order: properties on random trees, a slow version of the rules, real packages."""

import importlib.util
import os
import posixpath
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ilm_ray.code.facts import Index
from ilm_ray.code.imports import dependencies, find_facts
from ilm_ray.code.order import (
    OPENED,
    dependency_order,
    depth_first_order,
    is_documentation,
    repositories,
    strongly_connected,
)
from ilm_ray.code.pipeline import build_code_data
from ilm_ray.code.tree import choose_files, find_manifests, tree_fingerprint
from ilm_ray.config import load_config
from ilm_ray.config.schema import CodeConfig
from ilm_ray.corpus.stage import Context
from ilm_ray.errors import UserError
from ilm_ray.observe.journal import Journal
from tests.code.test_imports import standard_library

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
    index = Index({path: find_facts(path, text) for path, text in texts.items()})
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
        again = Index({path: index.facts[path] for path in shuffled})
        assert dependency_order(shuffled, {path: dependencies(path, again) for path in shuffled}) == order


def test_repositories_are_what_imports_connect() -> None:
    graph = {"a/x.py": {"b/y.py"}, "c.py": {"d.py"}}
    found = repositories(["a/x.py", "b/y.py", "c.py", "d.py", "e/f.py", "README.md", "a/z.py"], graph)
    assert {name: sorted(files) for name, files in found.items()} == {
        "a": ["README.md", "a/x.py", "a/z.py", "b/y.py"],
        "c.py": ["c.py", "d.py"],
        "e": ["e/f.py"],
    }


def test_files_are_chosen_or_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        choose_files(CodeConfig(source=str(tmp_path / "none")))
    with pytest.raises(UserError, match="holds no"):
        choose_files(CodeConfig(source=str(tmp_path)))
    for name in ("a.py", "b.py", "big.py", "x.bin"):
        (tmp_path / name).write_text("#" * (2000 if name == "big.py" else 10))
    assert choose_files(CodeConfig(source=str(tmp_path), max_file_bytes=100)).files == ["a.py", "b.py"]
    assert len(choose_files(CodeConfig(source=str(tmp_path), max_files=1)).files) == 1


def test_manifests_are_found_and_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x.go").write_text("package b\n")
    config = CodeConfig(source=str(tmp_path))
    before = tree_fingerprint(config)
    (tmp_path / "a" / "go.mod").write_text("module m\n")
    assert find_manifests(tmp_path, choose_files(config).files) == ["a/go.mod"]
    assert tree_fingerprint(config) != before


def test_only_the_last_package_is_cut(tmp_path: Path) -> None:
    for package in "abcdef":
        (tmp_path / package).mkdir()
        for number in range(4):
            (tmp_path / package / f"{number}.py").write_text("x = 1\n")
    chosen = choose_files(CodeConfig(source=str(tmp_path), max_files=10)).files
    assert sorted(Counter(path.split("/")[0] for path in chosen).values()) == [2, 4, 4]


def test_the_fingerprint_knows_the_name_that_ids_are_made_of(tmp_path: Path) -> None:
    found = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text("x = 1\n")
        found.add(tree_fingerprint(CodeConfig(source=str(tmp_path / name))))
    assert len(found) == 2


def test_names_that_are_not_utf8_are_left_out_and_counted(tmp_path: Path) -> None:
    for name in (b"a.py", b"caf\xe9.py"):
        (tmp_path / os.fsdecode(name)).write_text("x = 1\n")
    (tmp_path / os.fsdecode(b"r\xe9p")).mkdir()
    (tmp_path / os.fsdecode(b"r\xe9p") / "b.py").write_text("x = 1\n")
    config = CodeConfig(source=str(tmp_path))
    assert choose_files(config) == (["a.py"], 2)
    assert tree_fingerprint(config)


def test_what_cannot_be_read_is_the_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.py").write_text("x = 1\n")
    real = os.scandir

    def denied(path: object) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:  # tests may run as root, whom no permission stops
        patch.setattr(os, "scandir", lambda path: (denied if str(path).endswith("sub") else real)(path))
        with pytest.raises(UserError, match=r"cannot read .*sub: Permission denied"):
            choose_files(CodeConfig(source=str(tmp_path)))
    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(UserError, match=r"cannot read .*a\.py: Permission denied"):
        tree_fingerprint(CodeConfig(source=str(tmp_path)))


def test_a_tree_without_any_text_is_the_users_error(local_ray: None, tmp_path: Path) -> None:
    (tmp_path / "blank.py").write_text("\n \n")
    (tmp_path / "bad.py").write_bytes(b"\xff\xfe")
    config = load_config("nano", None, [f"code.source={tmp_path}"])
    context = Context(config, tmp_path / "code", tmp_path, Journal(tmp_path / "journal.jsonl"))
    with pytest.raises(UserError, match="all 2 files"):
        build_code_data(context)
