"""The perplexity difference: how much likelier the text before a segment makes it (report section 3.3).

For consecutive segments S1, S2 of a document it is the mean of log P(token | S1, S2 so far) - log P(token | S2 so far)
over the tokens of S2 from the second on, in nats: below zero, S1 misleads. Only the difference counts, so that the
scoring model's bias cancels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ilm_ray.base.jsonl import JsonObject
from ilm_ray.data.longtext.models import ScoringModel
from ilm_ray.data.longtext.thresholds import DIFFERENCE

SHOWN_TOKENS = 120  # of a pair's ending and beginning, for the report
# Token ids of sequences -> log-probability of each token but the first, given those before it in its sequence.
LogProbs = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


@dataclass(frozen=True)
class Cut:
    """The cut of documents into pairs: tokens of a segment, and the most pairs of a document."""

    segment: int
    most: int


@dataclass(frozen=True)
class Pair:
    """Tokens [start, middle) of a document are S1, [middle, stop) are S2."""

    start: int
    middle: int
    stop: int


def segment_pairs(length: int, cut: Cut) -> list[Pair]:
    """Pairs of segments, evenly from a document's beginning to its end.

    They are at most half a segment apart, so that a joint is never far from a border; a document that would have more
    than `cut.most` (2 or more) of them has so many. One shorter than two segments is one pair of two halves, and one
    shorter than a segment has none.
    """
    segment = cut.segment
    if length < segment:
        return []
    if length < 2 * segment:
        return [Pair(0, length // 2, length)]
    span = length - 2 * segment
    steps = min(-(-span // max(segment // 2, 1)), cut.most - 1)
    starts = [span * at // steps for at in range(steps + 1)] if steps else [0]
    return [Pair(at, at + segment, at + 2 * segment) for at in starts]


def differences(documents: Sequence[np.ndarray], cut: Cut, log_probs: LogProbs, batch_tokens: int) -> list[np.ndarray]:
    """The difference of every pair of segments of every document: float64 [pairs] each.

    documents: token ids. batch_tokens: how many go to `log_probs` at once; sequences go sorted by length, so that those
    of one call are alike.
    """
    pairs = [segment_pairs(len(document), cut) for document in documents]
    sequences = [
        document[first : pair.stop]
        for document, mine in zip(documents, pairs, strict=True)
        for pair in mine
        for first in (pair.middle, pair.start)
    ]
    scores: list[np.ndarray] = [np.empty(0)] * len(sequences)
    for batch in token_batches([len(s) for s in sequences], batch_tokens):
        for at, score in zip(batch, log_probs([sequences[i] for i in batch]), strict=True):
            scores[at] = score
    out, at = [], 0
    for mine in pairs:
        values = np.zeros(len(mine))
        for number in range(len(mine)):
            alone, after = scores[at], scores[at + 1]
            values[number] = (after[-len(alone) :].astype(np.float64) - alone).mean()
            at += 2
        out.append(values)
    return out


def score_documents(
    rows: Sequence[JsonObject], model: ScoringModel, cut: Cut, batch_tokens: int
) -> Iterator[JsonObject]:
    """{id, text} rows -> {id, perplexity_difference, differences, ending, beginning} rows, in their order.

    The difference is None for a document too short for a pair. `ending` of S1 and `beginning` of S2 are those of the
    pair that fits worst.
    """
    documents = [model.encode(row["text"]) for row in rows]
    by_document = differences(documents, cut, model.log_probs, batch_tokens)
    for row, document, values in zip(rows, documents, by_document, strict=True):
        made: JsonObject = {"id": row["id"], DIFFERENCE: None, "differences": values.round(4).tolist()}
        if len(values):
            worst = segment_pairs(len(document), cut)[int(values.argmin())]
            made[DIFFERENCE] = round(document_difference(values), 4)
            made["ending"] = model.decode(document[max(worst.start, worst.middle - SHOWN_TOKENS) : worst.middle])
            made["beginning"] = model.decode(document[worst.middle : min(worst.stop, worst.middle + SHOWN_TOKENS)])
        yield made


def document_difference(values: np.ndarray) -> float:
    """A document's difference from those of its pairs: the smallest, since one bad joint spoils it."""
    return float(values.min())


def token_batches(lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Positions sorted by length, in groups of at most `limit` tokens; one that is longer goes alone."""
    group, held = list[int](), 0
    for at in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if group and held + lengths[at] > limit:
            yield group
            group, held = [], 0
        group.append(at)
        held += lengths[at]
    if group:
        yield group
