"""Repositories of a source tree and the order of their files: an imported file comes first (report section 3.2)."""

import heapq
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Mapping, Set

from ilm_ray.data.code.files.detect import PROSE, language_of

Graph = Mapping[str, Set[str]]  # file -> the files that it imports

_DOCUMENTATION = (PROSE | {"xml"}) - {"jupyter"}  # XML that is no documentation does not come this far
OPENED = 64  # of a larger cycle one file in so many is opened at once; one by one the time would grow quadratically


def repositories(files: Iterable[str], graph: Graph) -> dict[str, list[str]]:
    """Name -> files. A repository is a set of files that imports connect: top-level folders and modules of the tree.

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

    An import's target precedes its importer unless both are in one cycle. A cycle starts at its alphabetically first
    file; the rest of it follows by the same rules, as if that file were gone. Where imports leave a choice, the file
    with the shorter path down to one that imports nothing comes first, then the one that lies less deep in folders,
    then the alphabet. Documentation precedes all code of its folder.
    """
    files = set(files)
    code = {f for f in files if not is_documentation(f)}
    order = _ordered({f: (code & graph.get(f, frozenset())) - {f} for f in code})
    return _with_documentation(order, files - code)


def depth_first_order(files: Iterable[str], graph: Graph) -> list[str]:
    """Every file once: from each file that nothing imports down its imports, deepest first, so that a file stands right
    after the files that it alone needs (report section 4.4). A cycle is broken where `dependency_order` breaks it;
    documentation as there.
    """
    files = set(files)
    order = dependency_order((f for f in files if not is_documentation(f)), graph)
    at = {file: i for i, file in enumerate(order)}
    imported = {target for file in order for target in graph.get(file, ()) if at.get(target, len(at)) < at[file]}
    placed = dict[str, None]()
    for start in [f for f in order if f not in imported]:
        work = [start]
        while work:
            file = work[-1]
            # Edges that the dependency order does not keep close a cycle.
            waiting = [t for t in graph.get(file, ()) if at.get(t, len(at)) < at[file] and t not in placed]
            if waiting:
                work.append(min(waiting, key=at.__getitem__))
            else:
                placed[work.pop()] = None
    return _with_documentation(list(placed), files - at.keys())


def strongly_connected(graph: Graph) -> list[list[str]]:
    """Tarjan's strongly connected components, without recursion. Each is sorted."""
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
                    component = [stack.pop()]
                    while component[-1] != node:
                        component.append(stack.pop())
                    on_stack.difference_update(component)
                    components.append(sorted(component))
    return components


def is_documentation(path: str) -> bool:
    """Whether a file by its name is prose rather than code.

    A notebook is code: it runs its imports, and is read after them.
    """
    suffix = posixpath.splitext(path)[1]
    # The whole name (CMakeLists.txt is no prose) only where the ending speaks for prose: looking it up takes long.
    return (not suffix or language_of(f"x{suffix}") in _DOCUMENTATION) and language_of(path) in _DOCUMENTATION


def _ordered(needs: Graph) -> list[str]:
    """`dependency_order` of code, all of whose imports are keys of `needs`."""
    cycles = strongly_connected(needs)
    number = {file: i for i, cycle in enumerate(cycles) for file in cycle}
    outer = [{number[t] for f in cycle for t in needs[f]} - {i} for i, cycle in enumerate(cycles)]
    distance = list[int]()
    for targets in outer:  # Tarjan's algorithm yields a component after all that it leads to
        distance.append(min((distance[t] + 1 for t in targets), default=0))
    order = []
    for i in _sorted_by_needs(outer, [(distance[i], *min(map(_rank, cycle))) for i, cycle in enumerate(cycles)]):
        cycle = cycles[i]
        opening = cycle[: max(1, len(cycle) // OPENED)]
        rest = set(cycle[len(opening) :])
        order += opening + (_ordered({f: needs[f] & rest for f in rest}) if rest else [])
    return order


def _sorted_by_needs(needs: list[set[int]], rank: list[tuple[int, int, str]]) -> list[int]:
    """Kahn's algorithm on an acyclic graph; of the nodes that are ready the one with the lowest rank comes first."""
    waiting = [len(targets) for targets in needs]
    importers = defaultdict(list)
    for node, targets in enumerate(needs):
        for target in targets:
            importers[target].append(node)
    ready = [(rank[node], node) for node, count in enumerate(waiting) if count == 0]
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
