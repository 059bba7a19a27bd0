"""Repositories of a source tree and the order of their files: what is imported comes first (report section 3.2)."""

import heapq
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Mapping, Set

from ilm_ray.code.imports import DOCUMENTATION

Graph = Mapping[str, Set[str]]  # file -> the files that it imports


def repositories(files: Iterable[str], graph: Graph) -> dict[str, list[str]]:
    """Name -> files. A repository is what imports connect: top-level folders and modules of the tree.

    It has the name of its alphabetically first folder or module. Documentation at the root of the tree belongs to the
    largest repository.
    """
    files = sorted(files)
    parent = {top: top for top in map(_top, files)}

    def find(top: str) -> str:
        while parent[top] != top:
            parent[top] = top = parent[parent[top]]
        return top

    for file in files:
        for target in graph.get(file, ()):
            first, second = sorted((find(_top(file)), find(_top(target))))
            parent[second] = first
    groups: dict[str, list[str]] = defaultdict(list)
    for file in files:
        groups[find(_top(file))].append(file)
    loose = [f for f in files if "/" not in f and is_documentation(f)]
    code = [name for name in groups if name not in loose]
    if code:
        largest = min(code, key=lambda name: (-len(groups[name]), name))
        for name in loose:
            groups[largest] += groups.pop(name)
    return dict(sorted(groups.items()))


def dependency_order(files: Iterable[str], graph: Graph) -> list[str]:
    """Every file once; the order depends on the names and imports alone.

    An import's target precedes its importer unless both are in one cycle; a cycle starts at its alphabetically first
    file; where neither rule decides the shorter path comes first; documentation precedes all code of its folder.
    """
    files = set(files)
    code = {f for f in files if not is_documentation(f)}
    needs = {f: set(graph.get(f, ())) & code for f in code}
    cycles = strongly_connected(needs)
    number = {file: i for i, cycle in enumerate(cycles) for file in cycle}
    outer = {i: {number[t] for f in cycle for t in needs[f]} - {i} for i, cycle in enumerate(cycles)}
    order = []
    for i in _sorted_by_needs(outer, {i: min(map(_rank, cycle)) for i, cycle in enumerate(cycles)}):
        order += _cycle_order(cycles[i], needs)
    return _with_documentation(order, files - code)


def strongly_connected(graph: Graph) -> list[list[str]]:
    """Tarjan's strongly connected components, without recursion."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack, on_stack, components = list[str](), set[str](), list[list[str]]()
    for start in sorted(graph):
        work = [] if start in index else [(start, iter(sorted(graph[start])))]
        while work:
            node, targets = work[-1]
            if node not in index:
                index[node] = low[node] = len(index)
                stack.append(node)
                on_stack.add(node)
            for target in targets:
                if target not in index:
                    work.append((target, iter(sorted(graph[target]))))
                    break
                if target in on_stack:
                    low[node] = min(low[node], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    at = stack.index(node)
                    components.append(sorted(stack[at:]))
                    on_stack.difference_update(stack[at:])
                    del stack[at:]
    return components


def is_documentation(path: str) -> bool:
    """Whether a file is prose rather than code."""
    return posixpath.splitext(path)[1] in DOCUMENTATION


def _sorted_by_needs(needs: Mapping[int, Set[int]], rank: Mapping[int, tuple[int, str]]) -> list[int]:
    """Kahn's algorithm on an acyclic graph; of the nodes that are ready the one with the lowest rank comes first."""
    waiting = {node: len(targets) for node, targets in needs.items()}
    importers = defaultdict(list)
    for node, targets in needs.items():
        for target in targets:
            importers[target].append(node)
    ready = [(rank[node], node) for node, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        _, node = heapq.heappop(ready)
        order.append(node)
        for importer in importers[node]:
            waiting[importer] -= 1
            if waiting[importer] == 0:
                heapq.heappush(ready, (rank[importer], importer))
    return order


def _cycle_order(cycle: list[str], needs: Graph) -> list[str]:
    """The alphabetically first file, then whatever has all its imports; where nothing has, the first again."""
    inside = set(cycle)
    waiting = {file: set(needs[file]) & inside - {file} for file in cycle}
    importers = defaultdict(list)
    for file, targets in waiting.items():
        for target in targets:
            importers[target].append(file)
    ready, order, placed = list[tuple[tuple[int, str], str]](), list[str](), set[str]()
    for opening in sorted(cycle):
        if opening in placed:
            continue
        ready.append((_rank(opening), opening))
        while ready:
            _, file = heapq.heappop(ready)
            order.append(file)
            placed.add(file)
            for importer in importers[file]:
                waiting[importer].discard(file)
                if not waiting[importer] and importer not in placed:
                    heapq.heappush(ready, (_rank(importer), importer))
    return order


def _with_documentation(order: list[str], documents: Set[str]) -> list[str]:
    """Each document before the first code file below its folder, or below the nearest folder above that has code."""
    first: dict[str, str] = {}
    for file in reversed(order):
        folder = posixpath.dirname(file)
        while True:
            first[folder] = file
            if not folder:
                break
            folder = posixpath.dirname(folder)
    before: dict[str, list[str]] = defaultdict(list)
    for document in sorted(documents, key=_rank):
        folder = posixpath.dirname(document)
        while folder and folder not in first:
            folder = posixpath.dirname(folder)
        before[first.get(folder, "")].append(document)
    return before[""] + [f for file in order for f in (*before[file], file)]


def _rank(path: str) -> tuple[int, str]:
    return path.count("/"), path


def _top(path: str) -> str:
    return path.split("/", 1)[0]
