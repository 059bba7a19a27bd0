"""Groups of tokens that keep the same company, learned from unlabelled texts.

The neighbours of a token tell its group (Schuetze 1995, distributional part-of-speech tagging): verbs fall among verbs,
measure words among measure words. Sequences of groups are common where sequences of words are rare.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ilm_ray.data.web.classifiers.features import GROUP_PLACES, group_places, token_keys

if TYPE_CHECKING:
    import scipy.sparse

_GROUPS = 128
_DIMENSIONS = 64
_FREQUENT = 8000  # tokens that have a group
_NEIGHBOURS = 1000  # tokens that count as company
_MIN_COUNT = 8  # occurrences: fewer say little about a token's company


def learn_groups(texts: Sequence[str], seed: int) -> np.ndarray:
    """uint16 [GROUP_PLACES]: the group of each frequent token, 0 for the others; all 0 where the texts are too few."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import TruncatedSVD

    groups = np.zeros(GROUP_PLACES, np.uint16)
    keys, ends = token_keys(texts)
    distinct, kind, counts = np.unique(keys, return_inverse=True, return_counts=True)
    frequent = np.argsort(-counts, kind="stable")[:_FREQUENT]
    frequent = frequent[counts[frequent] >= _MIN_COUNT]
    if len(frequent) < 2 * _GROUPS:
        return groups
    rank = np.full(len(distinct), -1, np.int64)
    rank[frequent] = np.arange(len(frequent))
    text_of = np.repeat(np.arange(len(texts)), np.diff(ends))
    with threadpool_limits(1):  # as for the weights: the same groups on every machine
        company = _company(rank[kind], text_of, len(frequent))
        points = TruncatedSVD(_DIMENSIONS, random_state=seed).fit_transform(company)
        points /= np.linalg.norm(points, axis=1, keepdims=True) + 1e-9
        group_of = MiniBatchKMeans(_GROUPS, random_state=seed, n_init=3, batch_size=2048).fit_predict(points) + 1
    groups[group_places(distinct[frequent[::-1]])] = group_of[::-1]  # of two tokens in one place the more frequent one
    return groups


def _company(rank: np.ndarray, text_of: np.ndarray, tokens: int) -> "scipy.sparse.csr_matrix":
    """Positive pointwise mutual information of each token with each neighbour: one and two to the right and left."""
    import scipy.sparse

    sides = []
    for distance in (1, 2):
        left, right = rank[:-distance], rank[distance:]
        inside = (text_of[:-distance] == text_of[distance:]) & (left >= 0) & (right >= 0)
        for token, neighbour in ((left, right), (right, left)):
            counted = inside & (neighbour < _NEIGHBOURS)
            pairs = (token[counted], neighbour[counted])
            shape = (tokens, min(tokens, _NEIGHBOURS))
            side = scipy.sparse.coo_matrix((np.ones(len(pairs[0])), pairs), shape).tocsr().tocoo()  # sums the same
            of_token, of_neighbour = (np.asarray(side.sum(axis)).ravel() + 1 for axis in (1, 0))
            expected = of_token[side.row] * of_neighbour[side.col] / of_token.sum()
            information = np.maximum(np.log(side.data / expected), 0)
            sides.append(scipy.sparse.csr_matrix((information, (side.row, side.col)), shape))
    return scipy.sparse.hstack(sides).tocsr()
