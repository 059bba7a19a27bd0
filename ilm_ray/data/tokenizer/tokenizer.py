"""InternLM2's tokenizer (report section 3.2.1): cl100k's head, learned Chinese tokens, spare ids, special tokens.

Ids from 0: base tokens, learned tokens, spare ids that stand for nothing, and the special tokens at the very end.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tiktoken

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import temporary_path, write_text_atomic
from ilm_ray.data.tokenizer.chatml import encode_chatml, plain_text
from ilm_ray.data.tokenizer.cl100k import rank_lines
from ilm_ray.data.tokenizer.encoder import PATTERN, Encoder
from ilm_ray.data.tokenizer.huggingface import write_huggingface
from ilm_ray.data.tokenizer.messages import ChatTokens

NAME = "vocabulary.json"
RANKS = "vocabulary.tiktoken"
_LARGEST = 1 << 22  # ids of a vocabulary file
FORMAT = "ilm_ray vocabulary 2"
# The last ids of the vocabulary, in this order; from <|plugin|> on they are those of the released models.
SPECIALS = (
    "<|reward|>",
    "<s>",
    "</s>",
    "<|plugin|>",
    "<|interpreter|>",
    "<|action_end|>",
    "<|action_start|>",
    "<|im_end|>",
    "<|im_start|>",
)


class Tokenizer:
    """Text <-> token ids. `tokens`: the bytes of ids 0, 1, ...; lower ids merge first; all 256 bytes are among them.

    `encoding` is the same as a tiktoken encoding, with the special tokens and `<|spare_0|>`, ... for the spare ids.
    Raises UserError where `vocab_size` has no room for the tokens and the special ones.
    """

    def __init__(self, tokens: Sequence[bytes], vocab_size: int) -> None:
        spare = vocab_size - len(tokens) - len(SPECIALS)
        if spare < 0:
            raise UserError(
                f"tokenizer.vocab_size={vocab_size} is too small for {len(tokens)} tokens and {len(SPECIALS)} special "
                f"ones; set it to {len(tokens) + len(SPECIALS)} or more"
            )
        self.tokens, self.vocab_size = list(tokens), vocab_size
        self._ranks = {token: rank for rank, token in enumerate(self.tokens)}
        self._specials = {name: vocab_size - len(SPECIALS) + i for i, name in enumerate(SPECIALS)}
        self._reserved = {f"<|spare_{i}|>": len(self.tokens) + i for i in range(spare)} | self._specials
        self.encoding = tiktoken.Encoding(
            "ilm_ray", pat_str=PATTERN, mergeable_ranks=self._ranks, special_tokens=self._reserved
        )
        self._encoder = Encoder(self.tokens, self.encoding)
        self._shown = [*self.tokens, *[b""] * spare, *(name.encode() for name in SPECIALS)]
        self.bos_id, self.eos_id = self.special("<s>"), self.special("</s>")
        self._begin, self._end = (np.array([i], np.uint32) for i in (self.bos_id, self.eos_id))
        self.im_start_id, self.im_end_id = self.special("<|im_start|>"), self.special("<|im_end|>")
        self.turn_end_id, self.reward_id = self.im_end_id, self.special("<|reward|>")
        self.begins_documents = True

    def special(self, name: str) -> int:
        """Id of a special token. Raises KeyError for any other string."""
        return self._specials[name]

    def encode(self, text: str) -> list[int]:
        """Ids of `text`. The name of a special token in it stays text: only code adds special ids."""
        return self._encoder.encode([text])[0].tolist()

    def encode_document(self, text: str) -> np.ndarray:
        """uint32 ids of a document, begin and end tokens included; no token becomes a Python integer on the way."""
        return np.concatenate([self._begin, self._encoder.encode([text])[0], self._end])

    def encode_chat(self, messages: Sequence[object], generation_prompt: bool = False) -> ChatTokens:
        """A conversation in ChatML; see `encode_chatml`."""
        return encode_chatml(self, messages, generation_prompt)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`: cut characters become U+FFFD, special tokens their names, spare ids nothing."""
        return b"".join(self._shown[i] for i in ids).decode("utf-8", errors="replace")

    def plain_text(self, decoded: str) -> str:
        """A decoded conversation for people; see `chatml.plain_text`."""
        return plain_text(decoded)

    def byte_lengths(self) -> np.ndarray:
        """int64 (vocab_size): bytes of text that each id stands for; 0 for special and spare ids."""
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        lengths[: len(self.tokens)] = [len(token) for token in self.tokens]
        return lengths

    def save(self, folder: Path) -> list[Path]:
        """Write `vocabulary.tiktoken` (in tiktoken's own form) and `vocabulary.json` into `folder`, each atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        lines, path, ranks = rank_lines(self._ranks), folder / NAME, folder / RANKS
        content = {
            "format": FORMAT,
            "vocab_size": self.vocab_size,
            "pattern": PATTERN,
            "specials": self._specials,  # for readers; the order above decides
            "ranks_sha256": hashlib.sha256(lines).hexdigest(),
        }
        temporary = temporary_path(ranks)
        temporary.write_bytes(lines)
        temporary.replace(ranks)
        write_text_atomic(path, json.dumps(content, indent=1))
        return [path, ranks]

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Open a folder that `save` wrote. Raises UserError where it is missing or damaged."""
        path = folder / NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"format '{content['format']}'")
            if content["pattern"] != PATTERN:
                raise ValueError("it splits text by another pattern than cl100k")
            lines = (folder / RANKS).read_bytes()
            if hashlib.sha256(lines).hexdigest() != content["ranks_sha256"]:
                raise ValueError(f"{RANKS} is not the file that was saved with it")
            rows = [line.split() for line in lines.splitlines()]
            tokens = [base64.b64decode(row[0], validate=True) for row in rows if len(row) == 2]
            if len(tokens) < len(rows) or b"" in tokens or len(set(tokens)) < len(tokens):
                raise ValueError(f"{RANKS} has a line that is no token and rank, or a token twice")
            if not {bytes([byte]) for byte in range(256)} <= set(tokens):
                raise ValueError(f"{RANKS} lacks single bytes")
            size = content["vocab_size"]
            if not isinstance(size, int) or size > _LARGEST:
                raise ValueError(f"vocab_size is no number up to {_LARGEST}")
            return cls(tokens, size)
        except FileNotFoundError as error:
            raise UserError(
                f"no tokenizer at {error.filename}; run jobs/tokenizer.py with this --run-dir first"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
            raise UserError(f"{path} is not a vocabulary of ilm_ray ({error}); run jobs/tokenizer.py anew") from None

    def save_huggingface(self, folder: Path) -> list[Path]:
        """Write `tokenizer.json` and `tokenizer_config.json` (with the ChatML template) for transformers and vLLM."""
        return write_huggingface(folder, self._ranks, self._reserved)
