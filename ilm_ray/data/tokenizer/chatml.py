"""ChatML (report section 4.1): conversations as tokens, and which of them the assistant wrote."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from ilm_ray.data.tokenizer.messages import ChatTokens, checked_messages, learns_from


class ChatVocabulary(Protocol):
    """The part of a tokenizer that conversations need: `Tokenizer` of `tokenizer.py`, or one read from its files."""

    bos_id: int
    im_start_id: int
    im_end_id: int

    def encode(self, text: str, /) -> list[int]: ...

    def special(self, name: str, /) -> int: ...


def encode_chatml(tokenizer: ChatVocabulary, messages: Sequence[object], generation_prompt: bool = False) -> ChatTokens:
    """`<s>`, then for each message `<|im_start|>role\\ncontent<|im_end|>\\n`.

    With a tool, as the released models have it: `<|im_start|>role name=<|plugin|>\\ncontent<|im_end|>\\n`, and
    `content<|action_start|><|plugin|>\\naction<|action_end|><|im_end|>\\n` for an assistant's. generation_prompt: ends
    with `<|im_start|>assistant\\n`, where the assistant goes on. Content is encoded apart from its surroundings, so
    training sees the borders that generation makes, and no content can close its message. Raises UserError as
    `check_messages` does.
    """
    ids, mask = [tokenizer.bos_id], [0]
    newline = tokenizer.encode("\n")
    for raw, message in zip(messages, checked_messages(messages), strict=True):
        role, name, action = message["role"], message.get("name"), message.get("action")
        head = [tokenizer.im_start_id, *tokenizer.encode(f"{role} name=" if name else f"{role}\n")]
        if name:
            head += [tokenizer.special(f"<|{name}|>"), *newline]
        body = tokenizer.encode(message["content"])
        if action:
            body += [tokenizer.special("<|action_start|>"), tokenizer.special(f"<|{action['name']}|>"), *newline]
            body += [*tokenizer.encode(action["content"]), tokenizer.special("<|action_end|>")]
        body.append(tokenizer.im_end_id)
        ids += head + body + newline
        mask += [0] * len(head) + [int(learns_from(cast(Mapping[str, Any], raw)))] * len(body) + [0] * len(newline)
    if generation_prompt:
        head = [tokenizer.im_start_id, *tokenizer.encode("assistant\n")]
        ids += head
        mask += [0] * len(head)
    return ChatTokens(ids, mask)


def plain_text(decoded: str) -> str:
    """A decoded conversation for people: no special tokens, no role names; messages one after the other."""
    opened = re.sub(r"<\|im_start\|>[a-z]+(?: name=<\|[a-z]+\|>)?\n", "", decoded)
    acted = re.sub(r"<\|action_start\|><\|[a-z]+\|>", "", opened)
    return re.sub(r"<\|im_end\|>\n?|<\|action_end\|>|</?s>", "\n", acted).strip()
