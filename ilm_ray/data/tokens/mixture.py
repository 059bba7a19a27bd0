"""Which tokens come next: one deterministic order of training sequences, the same for every layout.

A sequence has a global number. Its content follows from that number alone, so the whole data state of a run is one
integer, and any number of workers reads the same batches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ilm_ray.base.errors import UserError
from ilm_ray.data.tokens.shards import TokenSource
from ilm_ray.data.tokens.stream import Piece, Stream
from ilm_ray.data.tokens.turns import Turns
from ilm_ray.model.internlm2 import Packed
from ilm_ray.model.loss import IGNORE

# Tokens repeated up to four times are worth nearly as much as new ones (Muennighoff et al. 2023, arXiv 2305.16264).
MAX_PASSES = 4
KINDS = ("all", "short", "long")


@dataclass(frozen=True)
class MixturePart:
    """Sequences that take turns with those of other parts. `kind`: the kind of their documents, one of KINDS.

    `cut`: no piece is longer than that; 0 where documents are cut at the ends of sequences alone.
    """

    source: str
    kind: str
    share: float
    stream: Stream
    cut: int = 0


@dataclass(frozen=True)
class Drawn:
    """The share of a part in the first sequences. `passes`: how often its documents are gone through, by all
    parts that share them."""

    source: str
    kind: str
    documents: int
    sequences: int
    tokens: int
    passes: float
    # Weight, rounded -> how often the documents of that weight are read.
    reads_by_weight: dict[str, float]


class Mixture:
    """Packed sequences of exactly `context` tokens; `shares` are shares of sequences, and so of tokens.

    Documents follow each other in an order shuffled per pass; one that does not fit is cut and its rest opens the next
    sequence of that stream. With `short_share` (report section 3.3: half of phase 2 stays short) each source has two
    streams: whole documents shorter than `short_context` tokens, and long ones: those marked in `long` (source -> bool
    for each document) if there is such a mark, otherwise all others; with 0 it has the long ones alone. `sequences`:
    how many will be drawn. Where a stream has no documents, or so few that they would be read more than MAX_PASSES
    times, all documents take their place, for the short part cut at `short_context`; `notes` says so.
    """

    def __init__(
        self,
        sources: Mapping[str, TokenSource],
        shares: Mapping[str, float],
        context: int,
        seed: int,
        short_share: float | None = None,
        short_context: int = 0,
        long: Mapping[str, np.ndarray] | None = None,
        sequences: int = 0,
    ) -> None:
        shares = present_shares(shares, sources)
        self.sources, self.context, self.notes = dict(sources), context, list[str]()
        self.parts = list[MixturePart]()
        for name in sorted(shares):
            source, share = sources[name], shares[name] / sum(shares.values())
            documents = np.arange(len(source))
            streams = {"all": Stream(name, source, documents, (seed, 0))}
            wanted = {"all": share}
            if short_share is not None:
                short = source.lengths < short_context
                marked = (long or {}).get(name, ~short)
                streams["short"] = Stream(name, source, documents[short], (seed, 1))
                streams["long"] = Stream(name, source, documents[marked], (seed, 2))
                wanted = {"short": share * short_share, "long": share * (1 - short_share)}
            for kind, part in wanted.items():
                if part:
                    stream, why = streams[kind], _too_few(kind, streams[kind], sequences * part * context)
                    if why:
                        self.notes.append(f"{name}: {why}; all take their place")
                    if why or len(stream.documents) == len(streams["all"].documents):
                        stream = streams["all"]  # one stream for both parts: a pass then holds each document once
                    self.parts.append(
                        MixturePart(name, kind, part, stream, short_context if why and kind == "short" else 0)
                    )
        self._turns = Turns([part.share for part in self.parts], seed)
        # Parts of one stream walk it together.
        same = [[other.stream is part.stream for other in self.parts] for part in self.parts]
        self._same_stream = np.array(same, dtype=np.int64)

    def part(self, number: int) -> MixturePart:
        """The part that sequence `number` comes from."""
        return self.parts[self._turns.turn(number)]

    def pieces(self, number: int) -> list[Piece]:
        """The pieces of documents that make up sequence `number`."""
        turn = self._turns.turn(number)
        part = self.parts[turn]
        position = int(self._same_stream[turn] @ self._turns.before(number)) * self.context
        pieces = part.stream.pieces(position, self.context)
        return _cut(pieces, part.cut) if part.cut else pieces

    def drawn(self, sequences: int) -> list[Drawn]:
        """The composition of the first `sequences` sequences, part by part."""
        before = self._turns.before(sequences)
        passes = self._same_stream @ before * self.context / [part.stream.tokens_per_pass for part in self.parts]
        return [
            Drawn(
                part.source,
                f"{part.kind} (cut)" if part.cut else part.kind,
                len(part.stream.documents),
                int(count),
                int(count) * self.context,
                round(float(passed), 4),
                _reads_by_weight(part.stream, float(passed)),
            )
            for part, count, passed in zip(self.parts, before, passes, strict=True)
        ]

    def batch(self, first: int, count: int, stride: int = 1) -> tuple[Packed, Tensor]:
        """Sequences first, first + stride, ... (count of them) packed, and the label of every token."""
        return self.pack([piece for i in range(count) for piece in self.pieces(first + i * stride)])

    def pack(self, pieces: Sequence[Piece]) -> tuple[Packed, Tensor]:
        """Pieces -> packed tokens and labels (the following token of the same document, else IGNORE)."""
        ends = np.cumsum([piece.stop - piece.start for piece in pieces])
        tokens, labels = np.empty(ends[-1], np.int64), np.empty(ends[-1], np.int64)
        at = 0
        for piece, end in zip(pieces, ends.tolist(), strict=True):
            document = self.sources[piece.source].tokens(piece.document)
            tokens[at:end] = document[piece.start : piece.stop]
            labels[at : end - 1] = tokens[at + 1 : end]
            labels[end - 1] = document[piece.stop] if piece.stop < len(document) else IGNORE
            at = end
        return _packed(tokens, ends), torch.from_numpy(labels)


def present_shares(shares: Mapping[str, float], sources: Mapping[str, TokenSource]) -> dict[str, float]:
    """The shares of the sources that the corpus has; an English crawl simply has no Chinese.

    Raises UserError where none is left. The caller reports the sources that were left out.
    """
    present = {name: share for name, share in shares.items() if name in sources and sources[name].total_tokens}
    if not present:
        raise UserError(
            f"the corpus holds no token of {', '.join(shares)}; name one of its sources in the mixture "
            f"({', '.join(sources) or 'it has none'}) or give the data stages more input"
        )
    return present


def packed_from_arrays(sequences: Sequence[np.ndarray]) -> Packed:
    """Whole sequences (int64 arrays), one after the other."""
    return _packed(np.concatenate(sequences), np.cumsum([len(s) for s in sequences]))


def _packed(tokens: np.ndarray, ends: np.ndarray) -> Packed:
    cuts = np.concatenate([[0], ends])
    lengths = np.diff(cuts)
    return Packed(
        torch.from_numpy(tokens),
        torch.from_numpy(np.arange(len(tokens)) - np.repeat(cuts[:-1], lengths)),
        torch.from_numpy(cuts.astype(np.int32)),
        int(lengths.max()),
    )


def _too_few(kind: str, stream: Stream, tokens: float) -> str | None:
    """In words why `tokens` cannot be drawn from the stream of this kind, or None."""
    if kind == "all":
        return None
    if not stream.tokens:
        return f"no {kind} documents"
    passes = tokens / stream.tokens_per_pass
    return f"{kind} documents would be read {passes:.0f} times" if passes > MAX_PASSES else None


def _reads_by_weight(stream: Stream, passes: float) -> dict[str, float]:
    """Documents of several tiers have weights between those of the tiers: they are taken to the nearest whole one."""
    rounded = np.rint(stream.weights)
    mean = {weight: float(stream.weights[rounded == weight].mean()) for weight in np.unique(rounded).tolist()}
    return {f"{weight:g}": round(passes * value, 4) for weight, value in mean.items()}


def _cut(pieces: Sequence[Piece], longest: int) -> list[Piece]:
    return [
        Piece(p.source, p.document, start, min(start + longest, p.stop))
        for p in pieces
        for start in range(p.start, p.stop, longest)
    ]
