"""Conversations through a model's own chat template: ids, and the tokens that the assistant wrote.

The text is the template's, and is encoded as Transformers and vLLM encode it, with two exceptions:
- The names of special tokens in a content stay text. Before the template sees them, a BREAK is put into each; it is
  taken out again when the stretches between special tokens are encoded. A template that treats such a content in
  another way than without BREAK is refused.
- The text is cut where the assistant begins: a prompt and its answer have the ids that generation makes of them.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

from ilm_ray.base.errors import UserError
from ilm_ray.data.tokenizer.documented import Added
from ilm_ray.data.tokenizer.messages import checked_messages, learns_from
from ilm_ray.data.tokenizer.template import ChatTemplate, Render

_GENERATION = re.compile(r"\{%[-+]?\s*generation\b")
_INTERNAL = re.compile("[\ufdd0-\ufdef]")  # code points that no text has; our own template sets one too
_MARKS = [chr(point) for point in range(0xFDD0, 0xFDF0)]


class Specials:
    """The special tokens that a template can write, and how to tell them in a text."""

    def __init__(self, added: Mapping[str, Added]) -> None:
        self.added = dict(added)
        # A name of one character could not be broken.
        names = sorted((name for name in added if len(name) > 1), key=len, reverse=True)
        never = r"(?!)"
        self.names = re.compile("|".join(map(re.escape, names)) or never)
        spaced = [
            r"\s*" * added[n].strip_left + re.escape(n) + r"\s*" * added[n].strip_right for n in names
        ]  # Transformers' tokens take white space along where they say so
        self.found = re.compile("|".join(spaced) or never)
        self._heads = {name[:size] for name in names for size in range(1, len(name))}
        self._tails = {name[-size:] for name in names for size in range(1, len(name))}
        self._longest = max(map(len, names), default=1)

    def id_of(self, match: re.Match[str]) -> int:
        name = match[0]
        return self.added[name if name in self.added else name.strip()].id

    def broken(self, text: str, mark: str) -> str:
        """`text` with `mark` in every name, and at its ends where a name could begin or go on."""
        while match := self.names.search(text):
            text = text[: match.start() + 1] + mark + text[match.start() + 1 :]
        core = text.strip()
        if any(core[-size:] in self._heads for size in range(1, min(self._longest, len(core) + 1))):
            end = len(text.rstrip())
            text = text[:end] + mark + text[end:]
        if any(core[:size] in self._tails for size in range(1, min(self._longest, len(core) + 1))):
            start = len(text) - len(text.lstrip())
            text = text[:start] + mark + text[start:]
        return text


class TemplatedTokenizer(Protocol):
    """The part of a brought tokenizer that conversations need."""

    @property
    def template(self) -> ChatTemplate | None: ...

    @property
    def specials(self) -> Specials: ...

    @property
    def turn_end_id(self) -> int: ...

    def encode_stretch(self, text: str, at_start: bool) -> list[int]: ...

    def starts_stretch(self, first: bool) -> bool: ...


class Span(NamedTuple):
    """Characters [start, end) of the text that the assistant wrote; counts: they are learned from."""

    start: int
    end: int
    counts: bool = True


def encode_templated(
    tokenizer: TemplatedTokenizer, messages: Sequence[object], generation_prompt: bool
) -> tuple[list[int], list[int]]:
    """(ids, loss mask). The mask is 1 on the text of a `{% generation %}` block; without such blocks on the difference
    between a conversation with an assistant's message and its prompt; the token that ends the turn is part of it.

    Raises UserError for messages of another form, where the template refuses them, leaves one out, or writes the
    beginning of the assistant's message otherwise in a whole conversation than in a prompt.
    """
    template, specials = tokenizer.template, tokenizer.specials
    if template is None:
        raise UserError("the tokenizer has no chat template; bring it into a run's tokenizer folder, which adds ChatML")
    checked = checked_messages(messages, tool_calls="tool_calls" in template.source)
    for number, message in enumerate(checked, 1):
        if message.get("action") and "action" not in template.source:
            raise UserError(
                f"message {number}: the model's chat template has no place for an action or a tool call; take it out"
            )
    said = (cast(Mapping[str, Any], message) for message in messages)
    learned = [learns_from(message) for message in said if message["role"] == "assistant"]
    mark, opening, closing = _unused_marks(repr(checked) + template.source)
    # The role stays: a template may make a name of it, and it is one of ROLES.
    broken = [_broken(message, specials, mark) | {"role": message["role"]} for message in checked]
    marked = _GENERATION.search(template.source) is not None
    assistants = [] if marked else [i for i, message in enumerate(checked) if message["role"] == "assistant"]
    renders = [Render(broken, generation_prompt)]
    for i in assistants:
        renders += [Render(broken[:i], True), Render(broken[: i + 1], False)]
    if broken != checked:
        renders.append(Render(checked, generation_prompt))
    whole, *rest = template.try_render(renders, (opening, closing))
    if isinstance(whole, UserError):
        raise whole
    if broken != checked and _INTERNAL.sub("", str(rest.pop())) != _INTERNAL.sub("", whole):
        raise UserError(
            f"{template.where}: the chat template reads the name of a special token in a message; take it out of the "
            "message's text"
        )
    text = whole.replace(opening, "").replace(closing, "")
    _check_all_there(broken, text)
    found = list(_marked_spans(whole, opening, closing, template)) if marked else []
    if marked and not all(learned) and len(found) != len(learned):
        raise UserError(
            f"{template.where}: the chat template marks {len(found)} stretches for {len(learned)} messages of the "
            "assistant, so weight and train cannot be told; take them out"
        )
    if not all(learned):
        found = [span._replace(counts=counts) for span, counts in zip(found, learned[: len(found)], strict=True)]
    spans = [_with_end(span, text, specials) for span in found]
    for i, counts, before, after in zip(assistants, learned[: len(assistants)], rest[::2], rest[1::2], strict=True):
        span = _span(tokenizer, text, before, after)
        if span is not None:
            spans.append(span._replace(counts=counts))
        elif not generation_prompt:
            raise UserError(
                f"message {i + 1}: {template.where}: the chat template writes it otherwise than generation would begin "
                "it, so its tokens cannot be told; mark them with {% generation %}"
            )
    return _encode(tokenizer, text, spans, mark)


def _encode(tokenizer: TemplatedTokenizer, text: str, spans: list[Span], mark: str) -> tuple[list[int], list[int]]:
    """Stretches and special tokens of the text, cut at the borders of the spans."""
    ids, mask = list[int](), list[int]()
    borders = sorted({0, len(text), *(border for span in spans for border in span[:2])})
    starts = {span.start for span in spans if span.counts}
    as_start = tokenizer.starts_stretch(True)
    for start, end in itertools.pairwise(borders):
        known = len(ids)
        for stretch, special in _stretches(text[start:end], tokenizer.specials):
            if stretch := stretch.replace(mark, ""):
                ids += tokenizer.encode_stretch(stretch, as_start)
                as_start = False
            if special is not None:
                ids.append(special)
                as_start = tokenizer.starts_stretch(False)
        mask += [int(start in starts)] * (len(ids) - known)
    return ids, mask


def _stretches(text: str, specials: Specials) -> Iterator[tuple[str, int | None]]:
    """(text, the special token behind it) pairs; None behind the last."""
    at = 0
    for match in specials.found.finditer(text):
        yield text[at : match.start()], specials.id_of(match)
        at = match.end()
    yield text[at:], None


def _span(tokenizer: TemplatedTokenizer, text: str, before: str | UserError, after: str | UserError) -> Span | None:
    """The assistant's part of `text`; before, after: the conversation up to its message, and with it."""
    if isinstance(before, UserError) or not text.startswith(before):
        return None
    start, specials = len(before), tokenizer.specials
    if isinstance(after, str) and text.startswith(after):
        matches = list(specials.found.finditer(after, start))
        ended = bool(matches) and not after[matches[-1].end() :].strip()
        return Span(start, matches[-1].end() if ended else len(after))
    # A template that writes earlier turns otherwise than the last one, such as without its thoughts.
    ends = (m.end() for m in specials.found.finditer(text, start) if specials.id_of(m) == tokenizer.turn_end_id)
    end = next(ends, None)
    return None if end is None else Span(start, end)


def _marked_spans(whole: str, opening: str, closing: str, template: ChatTemplate) -> Iterator[Span]:
    """The spans between the marks, in the text without marks."""
    at, start = 0, None
    for part in re.split(f"([{opening}{closing}])", whole):
        if part not in (opening, closing) or part == "":
            at += len(part)
        elif (part == opening) == (start is not None):
            raise UserError(f"{template.where}: the chat template's generation blocks lie in one another")
        elif start is None:
            start = at
        else:
            yield Span(start, at)
            start = None


def _with_end(span: Span, text: str, specials: Specials) -> Span:
    """The span, and the special token directly behind it where it holds none at its own end."""
    inside = text[span.start : span.end]
    if any(not inside[match.end() :].strip() for match in specials.found.finditer(inside)):
        return span
    match = specials.found.match(text, span.end)
    return span._replace(end=match.end()) if match else span


def _check_all_there(messages: Sequence[Mapping[str, Any]], text: str) -> None:
    """Raises UserError where the template has silently left out a message to the assistant."""
    written = _INTERNAL.sub("", text)
    for number, message in enumerate(messages, 1):
        if message["role"] != "assistant" and _INTERNAL.sub("", message["content"]).strip() not in written:
            raise UserError(
                f"message {number}: the model's chat template leaves out the content of role '{message['role']}'; "
                "take it out or change the template"
            )


def _broken(value: Any, specials: Specials, mark: str) -> Any:
    """`value` with the special names in all its texts broken."""
    if isinstance(value, str):
        return specials.broken(value, mark)
    if isinstance(value, Mapping):
        return {specials.broken(str(key), mark): _broken(item, specials, mark) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_broken(item, specials, mark) for item in value]
    return value


def _unused_marks(text: str) -> list[str]:
    unused = [mark for mark in _MARKS if mark not in text and f"\\u{ord(mark):x}" not in text][:3]
    if len(unused) < 3:
        raise UserError("the messages use the code points U+FDD0 to U+FDEF, which are for internal use; take them out")
    return unused
