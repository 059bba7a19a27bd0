"""The tokenizer that the stages use, whichever kind it is, and conversations as ids."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ilm_ray.base.errors import UserError
from ilm_ray.data.tokenizer.messages import ChatTokens


class AnyTokenizer(Protocol):
    """Text <-> token ids: our own vocabulary (`tokenizer.py`) or that of a model that somebody brings (`brought.py`).

    bos_id, eos_id: stand before and after a document; a model without a begin token has the end token in its place.
    turn_end_id: ends an assistant's message; reward_id: a reward model is read there. vocab_size: highest id + 1.
    """

    vocab_size: int
    bos_id: int
    eos_id: int

    @property
    def turn_end_id(self) -> int: ...

    @property
    def reward_id(self) -> int: ...

    @property
    def begins_documents(self) -> bool:
        """Whether `bos_id` begins a document."""
        ...

    def special(self, name: str, /) -> int:
        """Id of a special token. Raises KeyError for any other string."""
        ...

    def encode(self, text: str, /) -> list[int]:
        """Ids of a text, none of them special: the name of a special token in it stays text."""
        ...

    def encode_document(self, text: str, /) -> np.ndarray:
        """uint32 ids of a document between its begin and end tokens."""
        ...

    def encode_chat(self, messages: Sequence[object], generation_prompt: bool, /) -> tuple[list[int], list[int]]:
        """See the function `encode_chat`."""
        ...

    def decode(self, ids: Iterable[int], /) -> str:
        """Text of `ids`: cut characters become U+FFFD, special tokens their names."""
        ...

    def plain_text(self, decoded: str, /) -> str:
        """A decoded conversation for people: without special tokens."""
        ...

    def byte_lengths(self) -> np.ndarray:
        """int64 (vocab_size): bytes of text that each id stands for; 0 for special ids."""
        ...

    def save(self, folder: Path, /) -> list[Path]:
        """Write the tokenizer into `folder`, in the form that `open_tokenizer` reads; returns the files."""
        ...

    def save_huggingface(self, folder: Path, /) -> list[Path]:
        """Write it as transformers and vLLM read it, chat template included; returns the files."""
        ...


def encode_chat(tokenizer: AnyTokenizer, messages: Sequence[object], generation_prompt: bool = False) -> ChatTokens:
    """A conversation as the tokenizer's chat template writes it; ours is ChatML (`encode_chatml`).

    generation_prompt: ends where the assistant goes on. The ids of a prompt and of an answer to it are those of the
    conversation of both. No content makes a special token. Raises UserError where the messages have another form or
    the template refuses them.
    """
    return ChatTokens(*tokenizer.encode_chat(messages, generation_prompt))


def answer_ids(tokenizer: AnyTokenizer, prompt: Sequence[object], answer: str) -> tuple[list[int], list[int]]:
    """(ids of the prompt, ids of an assistant's answer to it up to the token that ends its turn).

    Raises UserError where the chat template does not begin the conversation of both with the prompt.
    """
    before = encode_chat(tokenizer, prompt, generation_prompt=True).ids
    ids, mask = encode_chat(tokenizer, [*prompt, {"role": "assistant", "content": answer}])
    if ids[: len(before)] != before:
        raise UserError("the chat template begins an answer otherwise than its prompt ends; give another template")
    return before, ids[len(before) : len(mask) - mask[::-1].index(1)]


def begins_chat(tokenizer: AnyTokenizer) -> bool:
    """Whether a conversation begins with the token that documents begin with."""
    if not tokenizer.begins_documents:
        return False
    return encode_chat(tokenizer, [{"role": "user", "content": "a"}]).ids[:1] == [tokenizer.bos_id]


def system_prefix(tokenizer: AnyTokenizer, text: str) -> list[int]:
    """Ids of a system message for the beginning of any conversation, without the begin token.

    A text and an empty line where the chat template takes no system message alone.
    """
    try:
        ids = encode_chat(tokenizer, [{"role": "system", "content": text}]).ids
    except UserError:
        return tokenizer.encode(f"{text}\n\n")
    return ids[1:] if tokenizer.begins_documents and ids[:1] == [tokenizer.bos_id] else ids


def config_ids(tokenizer: AnyTokenizer) -> dict[str, int]:
    """The ids that config.json names, by the names that our vocabulary gives them."""
    return {"<s>": tokenizer.bos_id, "</s>": tokenizer.eos_id, "<|im_end|>": tokenizer.turn_end_id}
