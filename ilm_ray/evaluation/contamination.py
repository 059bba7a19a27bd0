"""Losses of a model on a benchmark's train, test and a reference set: has it seen them (report section 4, GSM8K)?

delta1 = L_test - L_reference, low where the test set leaked; delta2 = L_test - L_train, high where the model has
over-fitted on the training set. L is the mean over items of an item's loss a token, in nats; the intervals come from
drawing the items of each set anew (percentile bootstrap).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ilm_ray.data.decontamination.items import Item
from ilm_ray.data.tokenizer.chat import AnyTokenizer
from ilm_ray.data.tokens.mixture import packed_from_arrays
from ilm_ray.model.internlm2 import CausalLM
from ilm_ray.model.loss import IGNORE

SETS = ("train", "test", "reference")
RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Delta:
    """A difference of mean losses (nats a token) and its interval at LEVEL."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Contamination:
    """leaked: all of delta1's interval is below 0; overfitted: all of delta2's is above 0."""

    losses: dict[str, float]
    items: dict[str, int]
    delta1: Delta
    delta2: Delta

    @property
    def leaked(self) -> bool:
        return self.delta1.high < 0

    @property
    def overfitted(self) -> bool:
        return self.delta2.low > 0


def item_text(item: Item) -> str:
    """Question and answer, as they would stand in a document."""
    return "\n".join(filter(None, (item.question, item.choices, item.answer, item.solution)))


@torch.no_grad()
def item_losses(
    model: CausalLM, tokenizer: AnyTokenizer, texts: Sequence[str], micro_tokens: int = 8192
) -> list[float]:
    """The mean loss of each text in nats a token. A text is encoded as a document of pre-training."""
    device = next(model.parameters()).device
    means, held, size = list[float](), list[np.ndarray](), 0
    for number, text in enumerate(texts, 1):
        held.append(tokenizer.encode_document(text).astype(np.int64))
        size += len(held[-1])
        if size >= micro_tokens or number == len(texts):
            labels = np.concatenate([np.append(ids[1:], IGNORE) for ids in held])
            losses = model(packed_from_arrays(held).to(device), torch.from_numpy(labels).to(device)).double().cpu()
            for ids, item in zip(held, losses.split([len(ids) for ids in held]), strict=True):
                means.append(float(item.sum()) / (len(ids) - 1))
            held, size = [], 0
    return means


def contamination(losses: Mapping[str, Sequence[float]], seed: int, resamples: int = RESAMPLES) -> Contamination:
    """The two differences with their intervals. losses: of each of SETS, one figure an item; none may be empty."""
    draw = np.random.default_rng(seed)
    drawn = {name: _means(np.asarray(losses[name], np.float64), resamples, draw) for name in SETS}
    means = {name: float(np.mean(losses[name])) for name in SETS}

    def delta(other: str) -> Delta:
        edge = (1 - LEVEL) / 2
        low, high = np.quantile(drawn["test"] - drawn[other], (edge, 1 - edge))
        return Delta(means["test"] - means[other], float(low), float(high))

    return Contamination(means, {name: len(losses[name]) for name in SETS}, delta("reference"), delta("train"))


def as_json(result: Contamination) -> dict[str, Any]:
    """Plain figures, with both verdicts."""
    deltas = {name: vars(getattr(result, name)) for name in ("delta1", "delta2")}
    verdicts = {"leaked": result.leaked, "overfitted": result.overfitted}
    return {"losses": result.losses, "items": result.items, **deltas, **verdicts}


def _means(losses: np.ndarray, resamples: int, draw: np.random.Generator) -> np.ndarray:
    """float64 (resamples): means of as many items, drawn with replacement. Row by row: a set may be large."""
    return np.array([losses[draw.integers(len(losses), size=len(losses))].mean() for _ in range(resamples)])
