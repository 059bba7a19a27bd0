"""Which tokens come next: one deterministic order of training sequences, the same for every layout.

A sequence has a global number. Its content follows from that number alone, so the whole data state of a run is one
integer, and any number of workers reads the same batches.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ilm_ray.corpus.tokens import TokenSource
from ilm_ray.errors import UserError
from ilm_ray.model.internlm2 import Packed
from ilm_ray.model.loss import IGNORE

# Sources are interleaved in blocks: within each block of this many sequences the shares hold exactly.
BLOCK = 200


@dataclass(frozen=True)
class Piece:
    """Tokens [start, stop) of a document."""

    source: str
    document: int
    start: int
    stop: int


class Mixture:
    """Packed sequences of exactly `context` tokens drawn from several sources by share.

    Documents follow each other in an order shuffled per epoch; one that does not fit is cut and its rest opens the
    next sequence of that source. A share `short_share` of the sequences is cut further, so that no piece is longer
    than `short_context` (report section 3.3: half of phase 2 stays short).
    """

    def __init__(
        self,
        sources: Mapping[str, TokenSource],
        shares: Mapping[str, float],
        context: int,
        seed: int,
        short_share: float = 0.0,
        short_context: int = 0,
    ) -> None:
        shares = present_shares(shares, sources)
        self.sources, self.context, self.seed, self.short_context = dict(sources), context, seed, short_context
        total = sum(shares.values())
        slots: list[tuple[str, bool]] = []
        weights: list[float] = []
        for name, share in shares.items():
            for short, part in ((False, 1 - short_share), (True, short_share)):
                if part > 0:
                    slots.append((name, short))
                    weights.append(share / total * part)
        self._slots, self._counts = slots, largest_remainder(weights, BLOCK)

    def pieces(self, number: int) -> list[Piece]:
        """The pieces of documents that make up sequence `number`."""
        block, within = divmod(number, BLOCK)
        order = self._block_order(block)
        slot = int(order[within])
        rank = int((order[:within] == slot).sum())
        name, short = self._slots[slot]
        # A source's short and long slots walk the same stream, the short ones behind the long ones of the block.
        before = sum(c for (n, s), c in zip(self._slots, self._counts, strict=True) if n == name and s < short)
        per_block = sum(c for (n, _), c in zip(self._slots, self._counts, strict=True) if n == name)
        found = self._window(name, (block * per_block + before + rank) * self.context)
        return _cut(found, self.short_context) if short else found

    def batch(self, first: int, count: int, stride: int = 1) -> tuple[Packed, Tensor]:
        """Sequences first, first + stride, ... (count of them) packed, and the label of every token."""
        return self.pack([piece for i in range(count) for piece in self.pieces(first + i * stride)])

    def pack(self, pieces: Sequence[Piece]) -> tuple[Packed, Tensor]:
        """Pieces -> packed tokens and labels (the following token of the same document, else IGNORE)."""
        tokens, labels = [], []
        for piece in pieces:
            document = self.sources[piece.source].tokens(piece.document)
            tokens.append(document[piece.start : piece.stop].astype(np.int64))
            following = document[piece.start + 1 : piece.stop + 1].astype(np.int64)
            labels.append(np.pad(following, (0, len(tokens[-1]) - len(following)), constant_values=IGNORE))
        return packed_from_arrays(tokens), torch.from_numpy(np.concatenate(labels))

    def _window(self, name: str, start: int) -> list[Piece]:
        """Tokens [start, start + context) of a source's endless stream of shuffled epochs."""
        source, out, stop = self.sources[name], [], start + self.context
        while start < stop:
            epoch, offset = divmod(start, source.total_tokens)
            order, ends = self._epoch(name, epoch)
            at = int(np.searchsorted(ends, offset, side="right"))
            document = int(order[at])
            length = int(source.lengths[document])
            inside = offset - int(ends[at] - length)
            take = min(length - inside, stop - start)
            out.append(Piece(name, document, inside, inside + take))
            start += take
        return out

    @functools.lru_cache(maxsize=16)  # noqa: B019 - a mixture lives as long as its run
    def _epoch(self, name: str, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Order of the documents in an epoch, and where each ends in its stream."""
        source = self.sources[name]
        order = _generator(self.seed, name, epoch).permutation(len(source))
        return order, np.cumsum(source.lengths[order])

    @functools.lru_cache(maxsize=16)  # noqa: B019 - as above
    def _block_order(self, block: int) -> np.ndarray:
        slots = np.repeat(np.arange(len(self._slots)), self._counts)
        return _generator(self.seed, "block", block).permutation(slots)


def present_shares(shares: Mapping[str, float], sources: Mapping[str, TokenSource]) -> dict[str, float]:
    """The shares of the sources that the corpus has; an English crawl simply has no Chinese.

    Raises UserError where none is left. Who starts a run says what was left out.
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
    lengths = np.array([len(s) for s in sequences])
    return Packed(
        torch.from_numpy(np.concatenate(sequences)),
        torch.from_numpy(np.concatenate([np.arange(n) for n in lengths])),
        torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)),
        int(lengths.max()),
    )


def largest_remainder(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers that sum to `total` and lie closest to weights * total."""
    exact = np.array(weights) / sum(weights) * total
    counts = np.floor(exact).astype(int)
    for i in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
        counts[i] += 1
    return counts.tolist()


def _cut(pieces: Sequence[Piece], longest: int) -> list[Piece]:
    return [
        Piece(p.source, p.document, start, min(start + longest, p.stop))
        for p in pieces
        for start in range(p.start, p.stop, longest)
    ]


def _generator(seed: int, name: str, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, number, *name.encode()])
