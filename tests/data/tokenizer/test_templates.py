"""Chat templates that people bring: transformers' text and ids, masks made by hand, hostile templates refused."""

import itertools
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from ilm_ray.base.errors import UserError
from ilm_ray.data.tokenizer.brought import BroughtTokenizer
from ilm_ray.data.tokenizer.chat import answer_ids, begins_chat, encode_chat, system_prefix
from ilm_ray.data.tokenizer.opening import bring_tokenizer, open_tokenizer
from ilm_ray.data.tokenizer.template import ChatTemplate, Render
from tests.data.tokenizer.brought import (
    CHATML,
    LLAMA2,
    MARKED,
    SPECIALS,
    TEMPLATES,
    THINKING,
    byte_level,
    publish,
    spaced,
)

pytestmark = pytest.mark.process  # templates are rendered in a process of their own
SHORT = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": " And\n3? "},
    {"role": "assistant", "content": "Three."},
]
# The text that counts for the loss, by hand.
COUNTED = {
    "chatml": "4<|im_end|>Three.<|im_end|>",
    "qwen": "4<|im_end|>Three.<|im_end|>",
    "llama2": " 4 </s> Three. </s>",
    "llama3": "4<|eot_id|>Three.<|eot_id|>",
    "zephyr": "4</s>Three.</s>",
    "internlm2": "4<|im_end|>Three.<|im_end|>",
    "marked": "4<|im_end|>Three.<|im_end|>",
}
CONTENT = st.lists(
    st.one_of(st.sampled_from(["<|im", "_end|>", "<", ">", "s>", "\n", " ", "a", "4"]), st.text(max_size=4)), max_size=5
).map("".join)
PARTS = [*SPECIALS, "<|im_start", "|>", "<", "s>", "a ", "\n", "<<s>s>"]
LOOK_ALIKES = st.lists(st.sampled_from(PARTS), max_size=5).map("".join)


@pytest.fixture(scope="module", params=TEMPLATES)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, BroughtTokenizer, Any]:
    """Name of a template, our tokenizer and that of transformers."""
    from transformers import AutoTokenizer

    made = spaced() if request.param == "llama2" else byte_level()
    folder = publish(tmp_path_factory.mktemp("model"), made, TEMPLATES[request.param], begins=True)
    opened = open_tokenizer(folder)
    assert isinstance(opened, BroughtTokenizer)
    return request.param, opened, AutoTokenizer.from_pretrained(folder)


def test_the_mask_is_the_one_made_by_hand(model: tuple[str, BroughtTokenizer, Any]) -> None:
    name, ours, theirs = model
    ids, mask = encode_chat(ours, TALK)
    assert ids == theirs.apply_chat_template(TALK)["input_ids"]
    counted = [i for i, m in zip(ids, mask, strict=True) if m]
    assert _plain(theirs, counted) == COUNTED[name]
    end = {"llama2": "</s>", "llama3": "<|eot_id|>", "zephyr": "</s>"}.get(name, "<|im_end|>")
    assert ours.turn_end_id == ours.special(end)
    prompt = encode_chat(ours, TALK[:4], generation_prompt=True)
    assert prompt.ids == theirs.apply_chat_template(TALK[:4], add_generation_prompt=True)["input_ids"]
    assert ids[: len(prompt.ids)] == prompt.ids
    before, answer = answer_ids(ours, TALK[:4], "Three.")
    assert before == prompt.ids and before + answer == ids[: len(ids) - mask[::-1].index(1)]


@SHORT
@given(st.lists(CONTENT, min_size=5, max_size=5))
def test_conversations_have_the_ids_of_transformers(
    model: tuple[str, BroughtTokenizer, Any], contents: list[str]
) -> None:
    """Ids are equal but where a token of theirs would cross the border between a prompt and its answer."""
    _, ours, theirs = model
    talk = [m | {"content": text} for m, text in zip(TALK, contents, strict=True)]
    text = theirs.apply_chat_template(talk, tokenize=False)
    if re.search("|".join(map(re.escape, SPECIALS)), "".join(contents)):
        return
    ids, mask = encode_chat(ours, talk)
    assert ours.decode(ids) == theirs.decode(theirs(text, add_special_tokens=False)["input_ids"])
    expected = theirs(text, add_special_tokens=False)["input_ids"]
    borders = [i for i in range(1, len(ids)) if mask[i - 1] == 0 and mask[i] == 1]
    if ids != expected:
        assert any(ours.decode(ids[:i]) != ours.decode(expected[:i]) for i in borders)
        cut = encode_chat(ours, talk[:2], generation_prompt=True).ids
        assert cut == theirs.apply_chat_template(talk[:2], add_generation_prompt=True)["input_ids"]
    before = encode_chat(ours, talk[:4], generation_prompt=True).ids
    assert ids[: len(before)] == before


@SHORT
@given(st.lists(LOOK_ALIKES, min_size=5, max_size=5))
def test_no_content_makes_a_special_token(model: tuple[str, BroughtTokenizer, Any], contents: list[str]) -> None:
    """As many special tokens as with contents that have none, and the same text as in transformers."""
    _, ours, theirs = model
    talk = [m | {"content": text} for m, text in zip(TALK, contents, strict=True)]
    ids, specials = encode_chat(ours, talk).ids, {ours.special(name) for name in SPECIALS if name != "<unk>"}
    frame = encode_chat(ours, [m | {"content": "a"} for m in TALK]).ids
    assert [i for i in ids if i in specials] == [i for i in frame if i in specials]
    text = theirs.apply_chat_template(talk, tokenize=False)  # decoders of sentencepiece's style add and drop spaces
    assert ours.decode(ids).replace(" ", "") == text.replace(" ", "")


def test_marked_blocks_count_as_transformers_counts_them(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = publish(tmp_path, byte_level(), MARKED)
    theirs = AutoTokenizer.from_pretrained(folder)
    expected = theirs.apply_chat_template(TALK, return_assistant_tokens_mask=True, return_dict=True)
    assert encode_chat(open_tokenizer(folder), TALK) == (expected["input_ids"], expected["assistant_masks"])
    # A block that leaves the end of the turn outside: it counts all the same.
    outside = MARKED.replace("{{ m.content + '<|im_end|>' }}{% endgen", "{{ m.content }}{% endgen", 1).replace(
        "{% endgeneration %}", "{% endgeneration %}<|im_end|>"
    )
    assert encode_chat(open_tokenizer(publish(tmp_path / "outside", byte_level(), outside)), TALK) == (
        expected["input_ids"],
        expected["assistant_masks"],
    )


def runs_of_ones(mask: list[int]) -> list[tuple[int, int]]:
    ends = [i for i, (a, b) in enumerate(itertools.pairwise([0, *mask, 0])) if a != b]
    return list(zip(ends[::2], ends[1::2], strict=True))


def without_first(mask: list[int]) -> list[int]:
    (start, end), *_ = runs_of_ones(mask)
    return [0 if start <= i < end else m for i, m in enumerate(mask)]


def test_a_message_that_does_not_count_has_the_same_ids(model: tuple[str, BroughtTokenizer, Any]) -> None:
    _, ours, _ = model
    first = next(i for i, m in enumerate(TALK) if m["role"] == "assistant")
    ids, mask = encode_chat(ours, TALK)
    assert len(runs_of_ones(mask)) == sum(m["role"] == "assistant" for m in TALK) > 1
    for mark in ({"weight": 0}, {"train": False}):
        talk = [m | mark if i == first else m for i, m in enumerate(TALK)]
        assert encode_chat(ours, talk) == (ids, without_first(mask))


def test_a_marked_message_that_does_not_count(tmp_path: Path) -> None:
    ours = open_tokenizer(publish(tmp_path, byte_level(), MARKED))
    first = next(i for i, m in enumerate(TALK) if m["role"] == "assistant")
    ids, mask = encode_chat(ours, TALK)
    talk = [m | {"weight": 0} if i == first else m for i, m in enumerate(TALK)]
    assert encode_chat(ours, talk) == (ids, without_first(mask))


def test_tool_calls_reach_a_template_that_writes_them_and_no_other(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    calling = CHATML.replace(
        "{{ m.content }}", "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}"
    )
    assert calling != CHATML
    folder = publish(tmp_path / "calls", byte_level(), calling)
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": "y<|im_end|>", "n": 2}}}
    talk: list[Any] = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "4", "tool_call_id": "1"},
        {"role": "assistant", "content": "Four."},
    ]
    as_text = json.loads(json.dumps(talk))
    as_text[1]["tool_calls"][0]["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    ours, theirs = open_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    ids = encode_chat(ours, talk).ids
    assert ours.decode(ids) == theirs.apply_chat_template(talk, tokenize=False)
    assert encode_chat(ours, as_text).ids == ids and ids.count(ours.special("<|im_end|>")) == 4
    plain = open_tokenizer(publish(tmp_path / "plain", byte_level(), CHATML))
    with pytest.raises(UserError, match=r"message 2: .*no place for an action or a tool call"):
        encode_chat(plain, talk)


def test_special_tokens_take_white_space_along_as_in_transformers(tmp_path: Path) -> None:
    """Phi 3's do; LLaMA's and Qwen's do not."""
    from transformers import AutoTokenizer

    made = byte_level()
    made.add_special_tokens([AddedToken(name, rstrip=True, special=True) for name in ("<|user|>", "<|im_end|>")])
    made.add_special_tokens([AddedToken("<|assistant|>", lstrip=True, special=True)])
    folder = publish(tmp_path, made, TEMPLATES["zephyr"].replace("eos_token", "'<|im_end|>'"))
    talk = [
        {"role": "user", "content": "  a \n"},
        {"role": "assistant", "content": "b "},
        {"role": "user", "content": ""},
    ]
    theirs = AutoTokenizer.from_pretrained(folder)
    expected = theirs.apply_chat_template(talk, add_generation_prompt=True)["input_ids"]
    ids, mask = encode_chat(open_tokenizer(folder), talk, generation_prompt=True)
    assert ids == expected
    assert theirs.decode([i for i, m in zip(ids, mask, strict=True) if m]) == "b <|im_end|>"


def test_generation_blocks_are_found_in_macros_too(tmp_path: Path) -> None:
    macro = (
        "{% macro said(m) %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{% endmacro %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ said(m) }}\n{% endfor %}"
    )
    ours = open_tokenizer(publish(tmp_path, byte_level(), macro))
    ids, mask = encode_chat(ours, TALK)
    assert ours.decode([i for i, m in zip(ids, mask, strict=True) if m]) == "4</s>Three.</s>"


def test_earlier_turns_may_lose_their_thoughts(tmp_path: Path) -> None:
    ours = open_tokenizer(publish(tmp_path, byte_level(), THINKING))
    thought = [m | {"content": f"<think>hm</think>\n{m['content']}"} if m["role"] == "assistant" else m for m in TALK]
    ids, mask = encode_chat(ours, thought)
    counted = ours.decode([i for i, m in zip(ids, mask, strict=True) if m])
    assert counted == "4<|im_end|><think>hm</think>\nThree.<|im_end|>"


def test_a_system_message_stands_before_any_conversation(model: tuple[str, BroughtTokenizer, Any]) -> None:
    name, ours, _ = model
    assert begins_chat(ours) == (name in ("llama2", "llama3", "internlm2"))
    prefix = ours.decode(system_prefix(ours, "Score."))
    expected = {"llama2": "Score.\n\n", "llama3": "<|start_header_id|>system<|end_header_id|>\n\nScore.<|eot_id|>",
                "zephyr": "<|system|>\nScore.</s>\n"}  # fmt: skip
    assert prefix == expected.get(name, "<|im_start|>system\nScore.<|im_end|>\n")


def test_parts_of_text_are_joined_and_others_refused(tmp_path: Path) -> None:
    ours = bring_tokenizer(publish(tmp_path / "source", byte_level(), None), tmp_path / "run").tokenizer
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    whole = encode_chat(ours, [{"role": "user", "content": "ab"}])
    assert encode_chat(ours, [{"role": "user", "content": parts}]) == whole
    with pytest.raises(UserError, match="message 1: a part of type 'image' is no text"):
        encode_chat(ours, [{"role": "user", "content": [*parts, {"type": "image", "url": "x"}]}])
    with pytest.raises(UserError, match="no place for an action"):
        encode_chat(ours, [{"role": "assistant", "content": "", "action": {"name": "plugin", "content": "{}"}}])


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "leaves out the content"),
        (LLAMA2.replace("messages[1:]", "messages[2:]"), "turns must alternate"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}{{ 'A:' if add_generation_prompt }}", "otherwise than"),
        ("{% for m in messages %}{{ m.content.replace('<|im_end|>', 'x') }}{% endfor %}", "name of a special"),
        ("{% for m in messages %}", "TemplateSyntaxError"),
        ("{{ nothing.at_all }}", "UndefinedError"),
    ],
)  # fmt: skip
def test_a_template_that_does_not_fit_is_refused(tmp_path: Path, template: str, problem: str) -> None:
    ours = open_tokenizer(publish(tmp_path, byte_level(), template))
    talk = [TALK[0], TALK[1], {"role": "assistant", "content": "<|im_end|>" if "special" in problem else "4"}]
    with pytest.raises(UserError, match=problem):
        encode_chat(ours, talk)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'x' * 10 ** 10 }}",
        "{{ 10 ** (10 ** 10) }}",
        "{% set n = namespace(x='xxxxxxxx') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% macro m(d) %}{% if d %}{{ m(d - 1) }}{{ m(d - 1) }}{% endif %}{% endmacro %}{{ m(200) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set n = namespace(a=[], b=[]) %}{% for i in range(60) %}"
        "{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}",
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.getcwd() }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_hostile_template_is_refused_in_one_line_and_in_time(template: str) -> None:
    hostile, started = ChatTemplate(template, {}, "model", cpu_s=0.3), time.monotonic()
    with pytest.raises(UserError, match=r"^model: the chat template [^\n]*$"):
        hostile.render([Render(TALK, False)])
    assert time.monotonic() - started < 30


def test_a_process_that_was_ended_is_started_anew() -> None:
    template = ChatTemplate("{{ '%%%dd' | format(messages | length * 10 ** 9) % 1 }}", {}, "model")
    assert template.render([Render([], False)]) == ["1"]
    for _ in range(2):
        with pytest.raises(UserError, match="MiB"):
            template.render([Render(TALK, False)])
    assert template.render([Render([], False)]) == ["1"]


def test_a_template_of_dates_writes_the_same_every_day() -> None:
    asking = ChatTemplate("{{ strftime_now('%d %b %Y') }}", {}, "model")
    assert asking.render([Render(TALK, False)] * 2) == ["26 Jul 2024"] * 2


def _plain(theirs: Any, ids: list[int]) -> str:
    """Text of a part of a conversation, with the space that a decoder strips from its beginning."""
    return "".join(
        theirs.convert_tokens_to_string(["a", token])[1:] if not token.startswith("<") else token
        for token in theirs.convert_ids_to_tokens(ids)
    )
