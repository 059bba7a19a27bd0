"""Messages and their rendering: no content closes its own message, in our encoding or through the chat template."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jinja2 import TemplateError

from ilm_ray.base.errors import UserError
from ilm_ray.data.tokenizer.base import first_tokens
from ilm_ray.data.tokenizer.chat import encode_chat
from ilm_ray.data.tokenizer.chatml import plain_text
from ilm_ray.data.tokenizer.cl100k import cl100k
from ilm_ray.data.tokenizer.huggingface import MARK
from ilm_ray.data.tokenizer.messages import check_messages
from ilm_ray.data.tokenizer.tokenizer import SPECIALS, Tokenizer
from ilm_ray.report.html.page import text
from ilm_ray.report.label_page import question_page
from tests.fuzz.limits import bounded, few, refusals
from tests.fuzz.made import rewritten, texts, values

CONTENT = st.lists(st.one_of(texts, st.sampled_from([*SPECIALS, MARK, "|>", "<|", "user\n"])), max_size=4).map("".join)
TALK = [
    {"role": "system", "name": "plugin", "content": "Tools."},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "I compute.", "action": {"name": "interpreter", "content": "2 + 2"}},
    {"role": "environment", "name": "interpreter", "content": "4"},
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(first_tokens(cl100k()[0], 600), 700)


@pytest.fixture(scope="module")
def other(tokenizer: Tokenizer) -> Any:
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_huggingface(Path(folder))
        return AutoTokenizer.from_pretrained(folder)


@given(texts)
@example("\ud800" * 3 + "好")
@few(30)
def test_any_text_has_ids_and_none_is_special(tokenizer: Tokenizer, content: str) -> None:
    with bounded():
        ids = tokenizer.encode(content)
    assert all(i < len(tokenizer.tokens) for i in ids)
    assert tokenizer.decode(ids) == content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@given(st.one_of(rewritten(TALK), values))
@few(40)
def test_messages_are_encoded_or_refused(tokenizer: Tokenizer, other: Any, messages: Any) -> None:
    """What passes the check has ids, as many specials as its form asks for, and the same ids through the template."""
    with refusals():
        check_messages(messages)
        ids = encode_chat(tokenizer, messages).ids
        tools = sum(bool(m.get("name")) + 3 * bool(m.get("action")) for m in messages)
        assert sum(i >= len(tokenizer.tokens) for i in ids) == 1 + 2 * len(messages) + tools
        plain_text(tokenizer.decode(ids))
        if messages:
            assert other.apply_chat_template(messages, return_dict=False) == ids


@given(rewritten(TALK), CONTENT)
@example([], "\ud800")
@few(30)
def test_the_template_ends_in_ids_or_in_its_own_error(other: Any, messages: Any, content: str) -> None:
    """Through other people's servers the values of messages come unchecked."""
    talk = [*filter(lambda message: isinstance(message, dict), messages), {"role": "user", "content": content}]
    with bounded():
        try:
            ids = other.apply_chat_template(talk, return_dict=False)
        except (TemplateError, UserError, UnicodeEncodeError):
            return
        except TypeError as error:  # what Transformers' own tokenizer says of half a character
            assert "TextEncodeInput" in str(error) and "\\ud" in ascii(talk)
            return
    assert isinstance(ids, list)


@given(CONTENT, CONTENT, CONTENT)
@few(30)
def test_shown_text_is_inert(question: str, answer: str, domain: str) -> None:
    """A second parser finds no element, attribute or script on the label page that the page itself does not make."""
    row = {
        "id": domain,
        "domain": domain,
        "prompt": [{"role": question, "content": question}],
        "a": answer,
        "b": answer,
    }
    with bounded():
        page = question_page(row, ("a", "b"), None, (0, 1), {"back": f"/?id={text(domain)}"}, "token", "nonce")
        page.encode()
    plain = dict.fromkeys(("id", "domain", "a", "b"), "x") | {"prompt": [{"role": "x", "content": "x"}]}
    assert elements(page) == elements(
        question_page(plain, ("a", "b"), None, (0, 1), {"back": "/?id=x"}, "token", "nonce")
    )


def elements(page: str) -> list[tuple[str, tuple[str, ...]]]:
    import html5lib

    tree = html5lib.parse(page, namespaceHTMLElements=False)
    return [(element.tag, tuple(sorted(element.attrib))) for element in tree.iter() if isinstance(element.tag, str)]
