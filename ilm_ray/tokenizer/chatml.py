"""ChatML (report section 4.1): conversations as tokens, and which of them the assistant wrote."""

import re
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

from ilm_ray.errors import UserError
from ilm_ray.tokenizer.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant", "environment")


class Message(TypedDict):
    """One turn. `environment` carries what a tool or code interpreter answered."""

    role: str
    content: str


class ChatTokens(NamedTuple):
    """`loss_mask` is 1 exactly on the assistant's content and the <|im_end|> after it; as long as `ids`."""

    ids: list[int]
    loss_mask: list[int]


def encode_chat(tokenizer: Tokenizer, messages: Sequence[Message], generation_prompt: bool = False) -> ChatTokens:
    """`<s>`, then for each message `<|im_start|>role\\ncontent<|im_end|>\\n`.

    generation_prompt: ends with `<|im_start|>assistant\\n`, where the assistant goes on. Content is encoded apart from
    what stands around it, so training sees the borders that generation makes, and no content can close its message.
    Raises UserError for an unknown role or a content that is no text.
    """
    ids, mask = [tokenizer.bos_id], [0]
    newline = tokenizer.encode("\n")
    for number, message in enumerate(messages, 1):
        role, content = message["role"], message["content"]
        if role not in ROLES or not isinstance(content, str):
            raise UserError(f"message {number}: role '{role}' must be one of {', '.join(ROLES)} and its content a text")
        head = [tokenizer.im_start_id, *tokenizer.encode(f"{role}\n")]
        body = [*tokenizer.encode(content), tokenizer.im_end_id]
        ids += head + body + newline
        mask += [0] * len(head) + [int(role == "assistant")] * len(body) + [0] * len(newline)
    if generation_prompt:
        head = [tokenizer.im_start_id, *tokenizer.encode("assistant\n")]
        ids += head
        mask += [0] * len(head)
    return ChatTokens(ids, mask)


def plain_text(decoded: str) -> str:
    """A decoded conversation for people: no special tokens, no role names; messages one after the other."""
    opened = re.sub(r"<\|im_start\|>[a-z]+\n", "", decoded)
    return re.sub(r"<\|im_end\|>\n?|</?s>", "\n", opened).strip()
