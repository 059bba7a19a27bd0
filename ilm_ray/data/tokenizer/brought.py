"""The tokenizer of a model that somebody brings: its vocabulary, its documented special tokens, its chat template."""

import itertools
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import temporary_path
from ilm_ray.data.tokenizer.documented import LARGEST, Added, Documented
from ilm_ray.data.tokenizer.template import ChatTemplate
from ilm_ray.data.tokenizer.templated import Specials, encode_templated

REWARD = "<|reward|>"
# Names of ids that a model never learned: LLaMA 3's <|reserved_special_token_0|>, InternLM2's [UNUSED_TOKEN_130], ...
_RESERVED = re.compile(r"[<\[]\|?(?:reserved|unused)\w*\|?[>\]]", re.IGNORECASE)


class Vocabulary(Protocol):
    """A vocabulary file, opened."""

    size: int
    added: dict[str, Added]
    begins: bool  # documents begin with the begin token
    prefix_everywhere: bool  # a stretch behind a special token is encoded as a text's start is
    default_tokens: dict[str, str]

    def id_of(self, name: str) -> int | None: ...

    def names(self) -> Iterator[tuple[str, int]]: ...

    def piece(self, number: int) -> str: ...

    def encode(self, text: str, at_start: bool) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def byte_lengths(self) -> np.ndarray: ...


class BroughtTokenizer:
    """An `AnyTokenizer` over the files in `folder`.

    bos_id: the begin token; for a model without one its end token, which stands before a document as after it. Raises
    UserError where the model documents no end token.
    """

    def __init__(self, folder: Path, vocabulary: Vocabulary, documented: Documented) -> None:
        self.folder, self.vocab_size, self._vocabulary = folder, vocabulary.size, vocabulary
        tokens = vocabulary.default_tokens | documented.tokens
        self._unknown = vocabulary.id_of(tokens.get("unk_token", ""))
        eos = vocabulary.id_of(tokens.get("eos_token", ""))
        if eos is None:
            raise UserError(f"{folder} documents no eos_token of its vocabulary; set it in tokenizer_config.json")
        bos = vocabulary.id_of(tokens.get("bos_token", ""))
        self.eos_id, self.bos_id = eos, eos if bos is None else bos
        self._begin = [self.bos_id] if vocabulary.begins and bos is not None else []
        added = {name: item for name, item in vocabulary.added.items() if item.special}
        for name in tokens.values():
            number = vocabulary.id_of(name)
            if number is not None and name not in added:
                added[name] = Added(number, True)
        self._reward = _unused(vocabulary, added)
        if self._reward is not None:
            added.setdefault(self._reward, Added(vocabulary.id_of(self._reward) or 0, True))
        self.specials = Specials(added)
        self._special_ids = {item.id for item in added.values()} - {self._unknown}
        pieces = sorted({vocabulary.piece(number) for number in self._special_ids}, key=len, reverse=True)
        self._pieces = re.compile("|".join(re.escape(piece) for piece in pieces if len(piece) > 1) or "(?!)")
        self.template = None if documented.template is None else ChatTemplate(documented.template, tokens, str(folder))

    def special(self, name: str) -> int:
        """Id of a special token. Raises KeyError for any other string."""
        return self.specials.added[name].id

    @property
    def reward_id(self) -> int:
        """The token at which a reward model is read. Raises UserError where the vocabulary has no unused one."""
        if self._reward is None:
            raise UserError(f"{self.folder} has no unused token for rewards; bring it into a run's tokenizer folder")
        return self.special(self._reward)

    @property
    def has_reward(self) -> bool:
        return self._reward is not None

    @cached_property
    def turn_end_id(self) -> int:
        """The token that ends an assistant's message in the chat template; the end token where it writes none."""
        if self.template is None:
            return self.eos_id
        question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
        ids, mask = self.encode_chat([question, answer], generation_prompt=False)
        last = [i for i, counted in zip(ids, mask, strict=True) if counted][-1]
        return last if last in self._special_ids else self.eos_id

    @property
    def begins_documents(self) -> bool:
        """Whether a document begins with `bos_id`."""
        return bool(self._begin)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`. The name of a special token in it stays text."""
        return self.encode_stretch(text, at_start=True)

    def encode_stretch(self, text: str, at_start: bool) -> list[int]:
        """As `encode`, of a part of a text. at_start: a stretch that begins as a text does (see `Vocabulary`)."""
        if not text:
            return []
        text = whole_characters(text)
        ids = self._vocabulary.encode(text, at_start)
        if self._special_ids.isdisjoint(ids):
            return ids
        # A vocabulary that finds the name of a special token in a text: the name is cut in two.
        cuts = [0, *(match.start() + 1 for match in self._pieces.finditer(text)), len(text)]
        parts = [text[a:b] for a, b in itertools.pairwise(cuts) if a < b]
        ids = [i for n, part in enumerate(parts) for i in self._vocabulary.encode(part, at_start and n == 0)]
        if self._special_ids.isdisjoint(ids):
            return ids
        # It finds one in a text that only becomes the name when it is normalised.
        return [i for n, part in enumerate(text) for i in self._vocabulary.encode(part, at_start and n == 0)]

    def starts_stretch(self, first: bool) -> bool:
        """Whether text behind a special token begins as a text does; first: it is the beginning of all."""
        return first or self._vocabulary.prefix_everywhere

    def encode_document(self, text: str) -> np.ndarray:
        """uint32 ids of a document: the begin token where the model adds one, the text, the end token."""
        return np.array([*self._begin, *self.encode(text), self.eos_id], np.uint32)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`: cut characters become U+FFFD, special tokens their names."""
        return self._vocabulary.decode(list(ids))

    def plain_text(self, decoded: str) -> str:
        """A decoded conversation for people: line breaks instead of special tokens."""
        return self.specials.names.sub("\n", decoded).strip()

    def byte_lengths(self) -> np.ndarray:
        """int64 (vocab_size): bytes of text that each id stands for; 0 for special ids and the unknown one.

        The text is the one that `decode` gives: normalised, with the space that sentencepiece sets in front.
        """
        lengths = self._vocabulary.byte_lengths()
        lengths[[*self._special_ids, *([] if self._unknown is None else [self._unknown])]] = 0
        return lengths

    def encode_chat(self, messages: Sequence[object], generation_prompt: bool) -> tuple[list[int], list[int]]:
        """(ids, loss mask) through the chat template; see `encode_templated`."""
        return encode_templated(self, messages, generation_prompt)

    def save(self, folder: Path) -> list[Path]:
        """Copy the files into `folder`, each atomically; returns them."""
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name in LARGEST:
            if (self.folder / name).is_file():
                temporary = temporary_path(folder / name)
                shutil.copyfile(self.folder / name, temporary)
                temporary.replace(folder / name)
                written.append(folder / name)
        return written

    def save_huggingface(self, folder: Path) -> list[Path]:
        """As `save`: the files are in that form."""
        return self.save(folder)


def whole_characters(text: str) -> str:
    """`text` with U+FFFD for half characters (lone surrogates), which no library encodes."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _unused(vocabulary: Vocabulary, specials: dict[str, Added]) -> str | None:
    if REWARD in specials:
        return REWARD
    found = sorted((number, name) for name, number in vocabulary.names() if _RESERVED.fullmatch(name))
    return found[0][1] if found else None
