"""Import extraction against Python's parser, ordering against networkx; `python benchmarks/code_order.py [FOLDER]`.

FOLDER holds Python files; without it the standard library, tests included, is taken. One process, processor seconds.
"""

import ast
import json
import random
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx

from ilm_ray.data.code.languages.facts import Import, ModuleIndex
from ilm_ray.data.code.languages.imports import dependencies, find_facts
from ilm_ray.data.code.order import dependency_order, strongly_connected


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of one call, and what it returned."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def parsed_imports(text: str) -> set[Import]:
    """Imports by Python's own parser, in the form of `find_facts`."""
    imports = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imports |= {Import(item.name) for item in node.names}
        elif isinstance(node, ast.ImportFrom):
            imports |= {Import("." * node.level + (node.module or ""), item.name) for item in node.names}
    return imports


def read(root: Path) -> dict[str, str]:
    """The files that this Python can parse."""
    texts = {}
    for path in sorted(root.rglob("*.py")):
        if "site-packages" not in path.parts:
            try:
                text = path.read_text(encoding="utf-8")
                compile(text, str(path), "exec", ast.PyCF_ONLY_AST)
            except (SyntaxError, ValueError):
                continue
            texts[path.relative_to(root).as_posix()] = text
    return texts


def made_up(size: int, cyclic: bool) -> dict[str, set[str]]:
    """Six imports a file, of earlier files; in the cyclic form half the files import any other one too."""
    chance = random.Random(size)
    names = [f"d{chance.randrange(300)}/e{chance.randrange(20)}/f{i:06}.py" for i in range(size)]
    graph = {name: {names[chance.randrange(i)] for _ in range(min(i, 6))} for i, name in enumerate(names)}
    for name in names[: size // 2] if cyclic else ():
        graph[name].add(chance.choice(names))
    return graph


def networkx_order(graph: dict[str, set[str]]) -> list[int]:
    """The peer: components, then a topological sort with the alphabet as tie-break."""
    nodes = networkx.DiGraph([(target, file) for file, targets in graph.items() for target in targets])
    condensed = networkx.condensation(nodes)
    first = {number: min(members) for number, members in condensed.nodes(data="members")}
    return list(networkx.lexicographical_topological_sort(condensed, key=first.__getitem__))


def main(root: Path) -> None:
    """Print the figures."""
    texts = read(root)
    size = sum(map(len, texts.values())) / 1e6
    ours, facts = seconds(lambda: {path: find_facts(path, text) for path, text in texts.items()})
    parser, parsed = seconds(lambda: {path: parsed_imports(text) for path, text in texts.items()})
    edges, graph = seconds(
        lambda: {path: dependencies(path, index) for index in [ModuleIndex(facts)] for path in texts}
    )
    imports = {p: {*f.imports, *(item for _, item in f.handed_on)} for p, f in facts.items()}
    right = sum(len(imports[path] & parsed[path]) for path in texts)
    figures: dict[str, float] = {
        "files": len(texts),
        "imports": sum(map(len, parsed.values())),
        "precision": right / sum(map(len, imports.values())),
        "recall": right / sum(map(len, parsed.values())),
        "extraction_mb_per_s": size / ours,
        "extraction_speed_against_ast": parser / ours,
        "edges": sum(map(len, graph.values())),
        "edges_s": edges,
    }
    print(f"{len(texts)} files, {size:.1f} MB: facts in {ours:.2f} s, {parser / ours:.1f}x as fast as ast")
    print(f"imports against ast: precision {figures['precision']:.4f}, recall {figures['recall']:.4f}")
    for kind, cyclic in (("acyclic", False), ("cyclic", True)):
        times = []
        for count in (5_000, 10_000, 20_000):
            graph = made_up(count, cyclic)
            took, _ = seconds(lambda graph=graph: dependency_order(graph, graph))  # type: ignore[misc]
            times.append(took)
            largest = max(map(len, strongly_connected(graph)))
            print(f"{kind}, {count} files, largest cycle {largest}: {took:.2f} s")
        figures[f"order_10k_{kind}_s"] = times[1]
        figures[f"order_{kind}_growth_10k_to_20k"] = times[2] / times[1]
    graph = made_up(10_000, cyclic=False)
    peer, _ = seconds(lambda: networkx_order(graph))
    figures["order_speed_against_networkx"] = peer / figures["order_10k_acyclic_s"]
    print(f"networkx, 10000 files, acyclic: {peer:.2f} s")
    print(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("stdlib")))
