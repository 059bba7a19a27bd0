"""The default back end: logistic regression over hashed features, each weighted by how unevenly the classes use it.

The weighting is that of Wang and Manning 2012 (naive Bayes log-count ratios as feature values), tempered by a square
root. It vanishes into the weights: scoring is one pass over the text and a sum. The groups of tokens among the features
are learned from the good training texts.
"""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import temporary_path
from ilm_ray.data.web.classifiers.features import GROUP_PLACES, PLACES, logits, vectors
from ilm_ray.data.web.classifiers.groups import learn_groups
from ilm_ray.data.web.classifiers.labels import Labels

FILE = "model.npz"
_PENALTY = 30.0  # inverse of the penalty on the weights
# Beyond this many texts averaged stochastic gradient descent comes as close in a twentieth of the time; it takes large
# steps, for rows of length 1. Below, its weights fit the labels too closely.
_EXACT_TEXTS = 50_000
_STEP = 60.0
_EPOCHS = 4
_MIN_TEXTS = 2  # a feature of fewer training texts is not learned: most are


class Linear:
    """One weight for each place that a feature may hash to, a bias, and the groups of tokens."""

    kind = "linear"

    def __init__(self, weights: np.ndarray, bias: float, groups: np.ndarray) -> None:
        self.weights, self.bias, self.groups = weights, bias, groups

    @classmethod
    def fit(cls, training: Labels, threshold: Labels, seed: int) -> "Linear":
        """Learn from `training`, calibrate on `threshold`. Same labels and seed, same weights.

        Classes count alike however many texts each has: a score of one half is "as likely bad as good" among as many
        bad texts as good ones.
        """
        from sklearn.linear_model import LogisticRegression

        groups = learn_groups(training.part(training.good).texts, seed)
        weights, bias = _learn(training, groups, seed)
        held = logits(threshold.texts, weights, groups) + bias
        spread = float(held.std()) or 1.0
        with threadpool_limits(1):
            line = LogisticRegression(class_weight="balanced").fit(held[:, None] / spread, threshold.good)
        slope = float(line.coef_[0, 0]) / spread
        return cls((weights * slope).astype(np.float32), bias * slope + float(line.intercept_[0]), groups)

    def score(self, texts: list[str]) -> np.ndarray:
        """Probability of GOOD for each text, float64 [n]."""
        values = logits(texts, self.weights, self.groups) + self.bias
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(values, -60, 60))))

    def save(self, folder: Path) -> None:
        """Write the weights and groups that are not zero, atomically."""
        places, group_places = np.flatnonzero(self.weights), np.flatnonzero(self.groups)
        temporary = temporary_path(folder / FILE)
        with temporary.open("wb") as out:
            np.savez(
                out,
                places=places.astype(np.uint32),
                values=self.weights[places],
                bias=np.float64(self.bias),
                group_places=group_places.astype(np.uint32),
                groups=self.groups[group_places],
            )
        temporary.replace(folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> "Linear":
        """Raises UserError where the file is damaged."""
        try:
            with np.load(folder / FILE, allow_pickle=False) as saved:
                weights = np.zeros(PLACES, np.float32)
                weights[saved["places"]] = saved["values"]
                groups = np.zeros(GROUP_PLACES, np.uint16)
                groups[saved["group_places"]] = saved["groups"]
                return cls(weights, float(saved["bias"]), groups)
        except (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{folder / FILE} is no classifier ({error}); train it again, or delete its stage's folder"
            ) from None


def _learn(labels: Labels, groups: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """Weights, float32 [PLACES], and the bias."""
    import scipy.sparse

    matrix, good = vectors(labels.texts, groups), labels.good
    of_good = matrix.indices[np.repeat(good, np.diff(matrix.indptr))]
    texts_with = np.bincount(matrix.indices, minlength=PLACES)
    in_good = np.bincount(of_good, minlength=PLACES) + 1.0
    in_bad = texts_with - in_good + 2.0
    ratio = np.log(in_good / in_good.sum()) - np.log(in_bad / in_bad.sum())
    value = np.where(texts_with >= _MIN_TEXTS, np.sqrt(np.abs(ratio)), 0.0).astype(np.float32)
    # The solver sees only what it can learn from: a fraction of the places.
    used, column = np.flatnonzero(value), np.cumsum(value > 0, dtype=np.int32) - 1
    matrix.data *= value[matrix.indices]
    matrix.eliminate_zeros()
    rows = scipy.sparse.csr_matrix((matrix.data, column[matrix.indices], matrix.indptr), (len(good), len(used)))
    with threadpool_limits(1):  # sums over several threads round differently: weights would depend on the machine
        model = _solver(len(good), seed).fit(rows, good)
    weights = np.zeros(PLACES, np.float32)
    weights[used] = model.coef_[0] * value[used]
    return weights, float(model.intercept_[0])


def _solver(texts: int, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression, SGDClassifier

    if texts <= _EXACT_TEXTS:
        return LogisticRegression(C=_PENALTY, solver="liblinear", class_weight="balanced", random_state=seed)
    return SGDClassifier(
        loss="log_loss",
        alpha=1e-7,
        learning_rate="constant",
        eta0=_STEP,
        average=True,
        max_iter=_EPOCHS,
        tol=None,
        class_weight="balanced",
        random_state=seed,
    )
