"""From shared keys to clusters: star edges, connected components, the copy to keep (report section 3.1, Dedup)."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Edges:
    """Undirected edges; `low` < `high`. `exact` marks those from equal texts."""

    high: np.ndarray  # uint64
    low: np.ndarray  # uint64
    exact: np.ndarray  # bool


@dataclass(frozen=True)
class Drops:
    """Documents to remove, sorted by id. `duplicate_of` is kept instead; `exact`: an equal text has a smaller id."""

    ids: np.ndarray  # uint64
    duplicate_of: np.ndarray  # uint64
    exact: np.ndarray  # bool


def stars(keys: np.ndarray, ids: np.ndarray, exact: np.ndarray) -> tuple[np.ndarray, Edges]:
    """Connect all ids of a key to the smallest of them.

    Returns the positions of those smallest ids (one a key, in the order of the keys) and the distinct edges. One sort,
    never pairs: a key that a million documents share costs a million edges.
    """
    order = np.lexsort((ids, keys))
    first = np.ones(len(order), bool)
    first[1:] = keys[order][1:] != keys[order][:-1]
    heads = order[first]
    group = np.cumsum(first) - 1
    rest = order[~first]
    high, low, kind = ids[rest], ids[heads][group[~first]], exact[rest]
    if len(high):
        _, chosen = np.unique(np.rec.fromarrays([high, low, kind]), return_index=True)
        high, low, kind = high[chosen], low[chosen], kind[chosen]
    differ = high != low  # one document may hold a key twice
    return heads, Edges(high[differ], low[differ], kind[differ])


def resolve(edges: Edges) -> Drops:
    """Every document of a cluster but the one with the smallest id, which is the newest copy."""
    nodes, index = np.unique(np.concatenate([edges.high, edges.low]), return_inverse=True)
    count, half = len(nodes), len(edges.high)
    graph = coo_matrix((np.ones(half, np.uint8), (index[:half], index[half:])), shape=(count, count))
    parts, label = connected_components(graph, directed=False)
    smallest = np.full(parts, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, label, nodes)
    keeper = smallest[label]
    dropped = nodes != keeper
    return Drops(nodes[dropped], keeper[dropped], np.isin(nodes[dropped], edges.high[edges.exact]))
