"""The model scorer: low, moderate or high, used only for languages in which it agrees with people.

The report trains on about 50,000 labels. Two logistic heads over hashed token n-grams tell low from the rest and high
from the rest. They see canonical tokens (`tokens.py`), so that they cannot learn layout.
"""

import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import temporary_path
from ilm_ray.data.code.files.scores import TIERS
from ilm_ray.data.code.files.tokens import canonical
from ilm_ray.data.documents.language import TOKENS

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

FEATURES = 1 << 18
MAX_CHARS = 16_384  # of a file that the scorer reads
BAR, FEWEST = 0.8, 20  # agreement and validation labels that a language needs; neither is stated in the report


@dataclass(frozen=True)
class Agreement:
    """Share of files for which the scorer and people name the same tier."""

    labels: int
    agreement: float

    @property
    def passes(self) -> bool:
        return self.labels >= FEWEST and self.agreement >= BAR


class Scorer:
    """`weights` [2, FEATURES] and `bias` [2] of the heads "at least moderate" and "high"."""

    def __init__(self, weights: np.ndarray, bias: np.ndarray) -> None:
        self.weights, self.bias = weights, bias

    @classmethod
    def fit(cls, vectors: "csr_matrix", tiers: np.ndarray, seed: int) -> "Scorer":
        """tiers [n]: places in TIERS. Raises UserError where a tier has no label."""
        from sklearn.linear_model import LogisticRegression

        if len(set(tiers.tolist())) < len(TIERS):
            raise UserError(f"labels need all of {', '.join(TIERS)}; label files of the tiers that are missing")
        weights, bias = np.zeros((2, FEATURES), np.float32), np.zeros(2)
        used = np.unique(vectors.indices)  # the others stay zero, and need not be part of every step of the solver
        for head in (0, 1):
            model = LogisticRegression(C=30.0, max_iter=200, random_state=seed)
            with threadpool_limits(1):  # sums over several threads round differently
                model.fit(vectors[:, used], tiers > head)
            weights[head, used], bias[head] = model.coef_[0], model.intercept_[0]
        return cls(weights, bias)

    def probabilities(self, vectors: "csr_matrix") -> np.ndarray:
        """float64 [n, 3]: of each tier, low first."""
        logits = vectors @ self.weights.T.astype(np.float64) + self.bias
        above = 1.0 / (1.0 + np.exp(-np.clip(logits, -60, 60)))
        high = np.minimum(above[:, 1], above[:, 0])  # what is high is at least moderate
        return np.stack([1.0 - above[:, 0], above[:, 0] - high, high], axis=1)

    def save(self, path: Path) -> None:
        """Write the weights that are not zero as .npz, atomically."""
        places = np.flatnonzero(self.weights.any(axis=0))
        temporary = temporary_path(path)
        with temporary.open("wb") as out:
            np.savez(out, places=places.astype(np.uint32), values=self.weights[:, places], bias=self.bias)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Scorer":
        """Raises UserError where the file is damaged or missing."""
        try:
            with np.load(path, allow_pickle=False) as saved:
                weights = np.zeros((2, FEATURES), np.float32)
                weights[:, saved["places"]] = saved["values"]
                return cls(weights, saved["bias"].astype(np.float64))
        except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is no code scorer ({error}); make one with jobs/label_code.py") from None


def vectorise(texts: Sequence[str]) -> "csr_matrix":
    """[n, FEATURES] hashed 1- and 2-grams of canonical tokens, L2 norm."""
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(n_features=FEATURES, analyzer=_ngrams, norm="l2", alternate_sign=True).transform(texts)


def agreement(predicted: np.ndarray, labelled: np.ndarray, languages: Sequence[str]) -> dict[str, Agreement]:
    """Per language: the share of files whose predicted tier is the labelled one."""
    labels, same = Counter(languages), Counter[str]()
    same.update(language for language, equal in zip(languages, predicted == labelled, strict=True) if equal)
    return {language: Agreement(count, round(same[language] / count, 4)) for language, count in sorted(labels.items())}


def _ngrams(text: str) -> list[str]:
    words = TOKENS.findall(canonical(text[:MAX_CHARS]).lower())
    return words + [f"{a} {b}" for a, b in pairwise(words)]
