"""From shared keys to clusters: star edges, connected components, the copy to keep (report section 3.1, Dedup)."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ilm_ray.data.dedup.minhash import similarity
from ilm_ray.data.dedup.verify import settle


@dataclass(frozen=True)
class Edges:
    """Undirected edges; `low` < `high`. `exact` marks those from equal texts."""

    high: np.ndarray  # uint64
    low: np.ndarray  # uint64
    exact: np.ndarray  # bool


@dataclass(frozen=True)
class Clusters:
    """Members of all clusters of two or more documents, sorted by id."""

    ids: np.ndarray  # uint64
    label: np.ndarray  # uint64: the smallest id of the member's cluster
    exact: np.ndarray  # bool: a document of equal text has a smaller id


@dataclass(frozen=True)
class Drops:
    """Documents to remove, sorted by id, and the copy of each that is kept."""

    ids: np.ndarray  # uint64
    duplicate_of: np.ndarray  # uint64
    similarity: np.ndarray  # float32: estimated Jaccard similarity to the kept copy
    exact: np.ndarray  # bool

    def part(self, chosen: np.ndarray) -> "Drops":
        """Those that `chosen` (a mask or positions) names."""
        return Drops(self.ids[chosen], self.duplicate_of[chosen], self.similarity[chosen], self.exact[chosen])


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
    differ = high != low  # one document may hold a key twice
    return heads, distinct(Edges(high[differ], low[differ], kind[differ]))


def distinct(edges: Edges) -> Edges:
    """Each edge once."""
    order = np.lexsort((edges.exact, edges.low, edges.high))
    high, low, exact = edges.high[order], edges.low[order], edges.exact[order]
    fresh = np.ones(len(order), bool)
    fresh[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1]) | (exact[1:] != exact[:-1])
    return Edges(high[fresh], low[fresh], exact[fresh])


def clusters(edges: Edges) -> Clusters:
    """Connected components: every document's cluster by its smallest id, which is the newest copy."""
    nodes, index = np.unique(np.concatenate([edges.high, edges.low]), return_inverse=True)
    count, half = len(nodes), len(edges.high)
    graph = coo_matrix((np.ones(half, np.uint8), (index[:half], index[half:])), shape=(count, count))
    parts, part = connected_components(graph, directed=False)
    smallest = np.full(parts, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, part, nodes)
    return Clusters(nodes, smallest[part], np.isin(nodes, edges.high[edges.exact]))


def keepers(
    label: np.ndarray, ids: np.ndarray, signatures: np.ndarray, threshold: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """(kept copy, similarity to it) of each member of whole clusters; a kept document is its own.

    threshold None: the smallest id of a cluster is kept. Else a document falls only if its signature [num_hashes] puts
    it at `threshold` or above to the copy that stays: the smallest id is kept, then the smallest of those that are not
    similar to it, and so on. The outcome depends on the cluster alone; the time grows with its members.
    """
    order = np.lexsort((ids, label))
    first = np.ones(len(order), bool)
    first[1:] = label[order][1:] != label[order][:-1]
    hashes = signatures.shape[1]
    least = 0 if threshold is None else int(np.argmax(np.arange(hashes + 1) / hashes >= threshold))
    if least:
        leader, equal = settle(order, np.append(np.flatnonzero(first), len(order)), signatures, least)
        return ids[leader], (equal / hashes).astype(np.float32)
    leader = np.empty(len(order), np.int64)
    leader[order] = order[first][np.cumsum(first) - 1]
    return ids[leader], similarity(signatures, signatures[leader]).astype(np.float32)
