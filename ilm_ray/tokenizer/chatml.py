"""ChatML: conversations as token ids, and which of them are the assistant's."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypedDict

from ilm_ray.errors import UserError
from ilm_ray.tokenizer.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant", "environment")


class Message(TypedDict):
    role: str
    content: str


@dataclass(frozen=True)
class ChatTokens:
    """ids and, for each of them, 1 where the assistant has to produce it."""

    ids: list[int]
    loss_mask: list[int]


def encode_chat(tokenizer: Tokenizer, messages: Iterable[Message], generation_prompt: bool = False) -> ChatTokens:
    """`<s>`, then for each message `<|im_start|>role\\ncontent<|im_end|>\\n`.

    Content is encoded as plain text: "<|im_end|>" written in it closes nothing. The loss counts the assistant's content
    and the token that ends it. `generation_prompt` opens an assistant message for the model to write.
    """
    ids, mask = [tokenizer.bos_id], [0]

    def add(tokens: list[int], counted: bool = False) -> None:
        ids.extend(tokens)
        mask.extend([int(counted)] * len(tokens))

    for message in messages:
        role = message["role"]
        if role not in ROLES:
            raise UserError(f"a conversation has the role '{role}'; known roles: {', '.join(ROLES)}")
        add([tokenizer.im_start_id, *tokenizer.encode(f"{role}\n")])
        add([*tokenizer.encode(message["content"]), tokenizer.im_end_id], counted=role == "assistant")
        add(tokenizer.encode("\n"))
    if generation_prompt:
        add([tokenizer.im_start_id, *tokenizer.encode("assistant\n")])
    return ChatTokens(ids, mask)
