"""Preference pairs as token shards for the reward model (see `alignment/chunks.py`).

`<stage>/pairs/shard-NNNNN.*` are token shards (`data/tokens/shards.py`) of two conversations a pair, first the chosen
one, both whole and without a condition. Arrays more: `answers`, the tokens of the answer alone, one entry a
conversation; `split` and `domain` (its place among `domains_of`), one entry a pair.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ilm_ray.alignment.chunks import SPLITS, Run, shard_files, tokenize_chunks
from ilm_ray.alignment.inputs import unread_in
from ilm_ray.alignment.reward.conditional import condition_prefix, conditioned, room_behind
from ilm_ray.base.errors import UserError
from ilm_ray.base.files import save_array
from ilm_ray.base.jsonl import JsonObject
from ilm_ray.config.alignment import RewardConfig
from ilm_ray.data.documents.pipeline import run_tasks
from ilm_ray.data.tokenizer.chat import AnyTokenizer, begins_chat, encode_chat
from ilm_ray.data.tokens.shards import ShardWriter, TokenSource

FOLDER = "pairs"


@dataclass(frozen=True)
class PreferencePair:
    """One preference: token ids of both sequences, condition and final reward token included."""

    domain: str
    chosen: list[int]
    rejected: list[int]
    answer_tokens: tuple[int, int] = (0, 0)  # of the two answers alone


def domains_of(reward: RewardConfig) -> list[str]:
    """The domains of pairs, in the order that the shards know."""
    return sorted(reward.system_prompts)


def tokenize_pairs(
    path: Path, folder: Path, tokenizer: Path, reward: RewardConfig, run: Run = run_tasks
) -> tuple[dict[str, int], list[Path]]:
    """Write the shards of a file of pairs into `folder`; returns fields that nothing reads (name -> rows), and the
    files. run: does the work on the chunks. Raises UserError where a prompt does not fit the chat template."""
    work = functools.partial(tokenize_rows, path=path, domains=domains_of(reward))
    keys, unread = ("domain", "prompt", "chosen", "rejected"), Counter[str]()
    for receipt in tokenize_chunks(path, folder, keys, "reward.data", work, tokenizer, run):
        unread.update(receipt["unread"])
    return dict(sorted(unread.items())), shard_files(folder)


def tokenize_rows(
    encoder: AnyTokenizer,
    rows: Iterable[tuple[int, JsonObject]],
    folder: Path,
    shard_number: int,
    path: Path,
    domains: list[str],
) -> JsonObject:
    """Write the shard of some rows; returns their number and the fields that nothing reads. path: for messages."""
    answers, splits, named, unread = list[int](), list[int](), list[int](), Counter[str]()
    with ShardWriter(folder, shard_number) as shard:
        for number, row in rows:
            for answer in (row["chosen"], row["rejected"]):
                try:
                    ids = encode_chat(encoder, [*row["prompt"], {"role": "assistant", "content": answer}]).ids
                except UserError as error:
                    raise UserError(f"reward.data: {path} line {number + 1}: {error}") from None
                shard.add(ids, len(answer.encode("utf-8", "replace")), {"id": number})
                answers.append(len(encoder.encode(answer)))
            splits.append(SPLITS[row.get("split", "train")])
            named.append(domains.index(row["domain"]))
            unread.update(unread_in(row))
        stem = folder / f"shard-{shard_number:05d}"
        for name, values, kind in (
            ("answers", answers, np.int32),
            ("split", splits, np.int8),
            ("domain", named, np.int16),
        ):
            save_array(stem.with_suffix(f".{name}.npy"), np.array(values, kind))
    return {"rows": len(splits), "unread": unread}


class Pairs:
    """The shards, for a rank. Arrays with one entry a pair: `domain` (its place in `domains`), `lengths` (tokens of
    both sequences as the model reads them). train, heldout: numbers of pairs.

    cut: pairs with a conversation that is longer than `reward.context` and loses its beginning. conditional: False
    leaves the conditions out, for comparison.
    """

    def __init__(self, folder: Path, tokenizer: AnyTokenizer, reward: RewardConfig, conditional: bool = True) -> None:
        self._source, self._context, self._reward_id = TokenSource(folder), reward.context, tokenizer.reward_id
        stems = [folder / stem for stem in self._source.shards]
        self.domains, self._begins = domains_of(reward), begins_chat(tokenizer)
        prompts: Mapping[str, str] = reward.system_prompts
        self._prefixes = [condition_prefix(tokenizer, prompts[d]) if conditional else [] for d in self.domains]
        self.domain, self._answers = _joined(stems, "domain"), _joined(stems, "answers")
        splits = _joined(stems, "split")
        self.train, self.heldout = (np.flatnonzero(splits == SPLITS[name]) for name in ("train", "heldout"))
        room = np.array(
            [room_behind(prefix, self._reward_id, self._context, self._begins) for prefix in self._prefixes]
        )
        added = np.array([len(prefix) + 1 for prefix in self._prefixes]) + self._begins
        whole = self._source.lengths.reshape(-1, 2) - self._begins
        self.cut = int((whole > room[self.domain, None]).any(1).sum())
        self.lengths = (np.minimum(whole, room[self.domain, None]) + added[self.domain, None]).sum(1)

    def __len__(self) -> int:
        return len(self.domain)

    def pair(self, number: int) -> PreferencePair:
        domain = int(self.domain[number])
        chosen, rejected = (
            conditioned(
                self._prefixes[domain],
                self._source.tokens(2 * number + side).tolist(),
                self._reward_id,
                self._context,
                self._begins,
            )
            for side in (0, 1)
        )
        answers = int(self._answers[2 * number]), int(self._answers[2 * number + 1])
        return PreferencePair(self.domains[domain], chosen, rejected, answers)


def _joined(stems: list[Path], name: str) -> np.ndarray:
    return np.concatenate([np.empty(0, np.int16), *(np.load(stem.with_suffix(f".{name}.npy")) for stem in stems)])
