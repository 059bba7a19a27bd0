"""The vocabulary: the head of cl100k, learned Chinese tokens, spare ids, special tokens at the very end."""

import base64
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tiktoken

from ilm_ray.errors import UserError
from ilm_ray.tokenizer.ranks import PATTERN, Ranks, learn_merges

# From the last id downwards. The first six are those of the released models (92543 ... 92538).
SPECIAL = (
    "<|im_start|>",
    "<|im_end|>",
    "<|action_start|>",
    "<|action_end|>",
    "<|interpreter|>",
    "<|plugin|>",
    "</s>",
    "<s>",
    "<|reward|>",
)


class Tokenizer:
    """Text <-> token ids. Special tokens never come out of text: only ids given by name make them."""

    def __init__(self, ranks: Ranks, vocab_size: int) -> None:
        if len(ranks) + len(SPECIAL) > vocab_size:
            raise UserError(
                f"tokenizer.vocab_size={vocab_size} is too small for {len(ranks)} tokens and {len(SPECIAL)} special "
                "ones; raise it or lower tokenizer.base_tokens or tokenizer.chinese_tokens"
            )
        self.ranks, self.vocab_size = ranks, vocab_size
        self.specials = {name: vocab_size - 1 - i for i, name in enumerate(SPECIAL)}
        self._names = {i: name for name, i in self.specials.items()}
        self._encoding = tiktoken.Encoding("ilm_ray", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
        self._bytes = {rank: token for token, rank in ranks.items()}
        self.bos_id, self.eos_id = self.special("<s>"), self.special("</s>")
        self.im_start_id, self.im_end_id = self.special("<|im_start|>"), self.special("<|im_end|>")
        self.reward_id = self.special("<|reward|>")

    @classmethod
    def train(
        cls, base: Ranks, base_tokens: int, texts: Iterable[str], chinese_tokens: int, max_chars: int, vocab_size: int
    ) -> "Tokenizer":
        """The first `base_tokens` of `base`, then up to `chinese_tokens` merges learned from `texts`."""
        head = {token: rank for token, rank in base.items() if rank < base_tokens}
        learned = learn_merges(head, texts, chinese_tokens, max_chars)
        return cls(head | {token: len(head) + i for i, token in enumerate(learned)}, vocab_size)

    def special(self, name: str) -> int:
        """Id of a special token."""
        return self.specials[name]

    def encode(self, text: str) -> list[int]:
        """Ids of a text; a special token's string in it is ordinary text."""
        return self._encoding.encode_ordinary(text)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, in threads."""
        return self._encoding.encode_ordinary_batch(texts, num_threads=2)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; specials as their names, broken UTF-8 as U+FFFD, spare ids as nothing."""
        out = b"".join(self._bytes.get(int(i)) or self._names.get(int(i), "").encode() for i in ids)
        return out.decode("utf-8", errors="replace")

    def byte_lengths(self) -> np.ndarray:
        """float64 (vocab_size): bytes of text that each id stands for; 0 for special and spare ids."""
        lengths = np.zeros(self.vocab_size)
        for rank, token in self._bytes.items():
            lengths[rank] = len(token)
        return lengths

    def save(self, folder: Path) -> Path:
        """Write `tokenizer.json`: ranks in order as base64, vocabulary size."""
        folder.mkdir(parents=True, exist_ok=True)
        ordered = [base64.b64encode(self._bytes[rank]).decode() for rank in range(len(self._bytes))]
        path = folder / "tokenizer.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"format": "ilm_ray", "vocab_size": self.vocab_size, "ranks": ordered}))
        temporary.replace(path)
        return path

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read what `save` wrote. Raises UserError where there is none."""
        try:
            saved = json.loads((folder / "tokenizer.json").read_text())
            ranks = {base64.b64decode(token): rank for rank, token in enumerate(saved["ranks"])}
        except (OSError, KeyError, ValueError) as error:
            raise UserError(f"{folder} holds no tokenizer of ours ({error}); run jobs/tokenizer.py first") from None
        return cls(ranks, saved["vocab_size"])
