"""A repository as dependency-sorted markdown documents (report section 3.2.1)."""

import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Any

import networkx as nx

from ilm_ray.code.imports import DOCUMENTATION, LANGUAGES, imported_files

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")


def import_edges(texts: Mapping[str, str]) -> dict[str, set[str]]:
    """File -> the files of the repository that it imports. texts: path -> content."""
    files = frozenset(texts)
    return {path: imported_files(path, text, files) for path, text in texts.items()}


def dependency_order(edges: Mapping[str, Iterable[str]]) -> list[str]:
    """Every imported file before its importer, unless both lie on a cycle; a cycle starts at its first name.

    Independent of the order in which files are given; documentation comes before the first code file of its folder.
    """
    code = sorted(p for p in edges if not p.endswith(DOCUMENTATION))
    graph = nx.DiGraph()
    graph.add_nodes_from(code)
    graph.add_edges_from((imported, path) for path in code for imported in sorted(edges[path]))
    documents: dict[str, list[str]] = {}
    for path in sorted(p for p in edges if p.endswith(DOCUMENTATION)):
        documents.setdefault(posixpath.dirname(path), []).append(path)
    ordered: list[str] = []
    for path in _sorted_graph(graph):
        ordered += [*documents.pop(posixpath.dirname(path), []), path]
    return [*(path for rest in documents.values() for path in rest), *ordered]


def _sorted_graph(graph: nx.DiGraph) -> list[str]:
    """Topological order with ties by name; each cycle is opened at its alphabetically first file."""
    condensed = nx.condensation(graph)
    first = {node: min(members) for node, members in condensed.nodes(data="members")}
    out: list[str] = []
    for node in nx.lexicographical_topological_sort(condensed, key=first.__getitem__):
        members = condensed.nodes[node]["members"]
        if len(members) == 1:
            out += members
            continue
        # The start of a cycle comes first whatever it imports; without it the rest may hold smaller cycles.
        out += [first[node], *_sorted_graph(graph.subgraph(members - {first[node]}))]
    return out


def markdown_documents(order: Iterable[str], texts: Mapping[str, str], max_chars: int) -> list[dict[str, Any]]:
    """Files in order as markdown, split at file borders into documents of at most `max_chars` (one file at least)."""
    documents: list[dict[str, Any]] = []
    for path in order:
        block = _markdown(path, texts[path])
        if not documents or len(documents[-1]["text"]) + len(block) > max_chars:
            documents.append({"files": [], "text": ""})
        documents[-1]["files"].append(path)
        documents[-1]["text"] += block
    return documents


def _markdown(path: str, text: str) -> str:
    body = _EMAIL.sub("name@example.com", text).strip("\n")
    language = LANGUAGES.get(posixpath.splitext(path)[1])
    if language is None:
        return f"## {path}\n\n{body}\n\n"
    fence = "```" if "```" not in body else "~~~~"
    return f"## {path}\n\n{fence}{language.fence}\n{body}\n{fence}\n\n"
