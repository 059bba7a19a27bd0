"""The markdown form, and a tokenisation to which the width of indentation does not matter."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilm_ray.data.code.files.forms import Unconvertible, convert, fenced, html, notebook, section
from ilm_ray.data.code.files.tokens import canonical
from ilm_ray.data.documents.language import TOKENS


def _blocks(markdown: str) -> list[tuple[str, str]]:
    """(info string, content) of the fenced blocks, by CommonMark's rule for fences: a second, line-by-line reading."""
    blocks, fence, info, lines = [], "", "", list[str]()
    for line in markdown.split("\n"):
        mark = re.match(r"(`{3,})(.*)$", line)
        if not fence and mark:
            fence, info, lines = mark[1], mark[2], []
        elif fence and mark and len(mark[1]) >= len(fence) and not mark[2].strip():
            blocks.append((info, "\n".join(lines)))
            fence = ""
        elif fence:
            lines.append(line)
    return blocks


@settings(max_examples=200)
@given(st.text(alphabet="`a \n~#", max_size=60))
def test_a_fence_never_collides_with_its_content(text: str) -> None:
    assert _blocks(fenced(text, "python")) == [("python", text.rstrip())]
    assert _blocks(section("a.py", text, "python")) == [("python", text.rstrip())]


def test_markdown_stays_as_it_is() -> None:
    assert section("b.md", "# Title\n\n```\nfence\n```\n", "markdown") == "## b.md\n\n# Title\n\n```\nfence\n```\n"
    rst = "Title\n=====\n\n.. code:: python\n\n   x\n"
    assert convert(rst, "restructuredtext") == (rst, "restructuredtext")


def test_a_notebook_becomes_interleaved_markdown_and_code() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "words"]},
        {
            "cell_type": "code",
            "source": 'print("``` in code")',
            "outputs": [
                {"output_type": "stream", "text": ["short\n"]},
                {"output_type": "stream", "text": "long" * 1000},
                {"output_type": "display_data", "data": {"image/png": "iVBOR", "text/plain": "<Figure>"}},
                {"output_type": "execute_result", "data": {"text/plain": "42"}},
                {"output_type": "error", "traceback": ["secret path"]},
            ],
        },
        {"cell_type": "code", "source": "", "outputs": []},
        {"cell_type": "raw", "source": "raw"},
        {"cell_type": "markdown", "source": "end"},
    ]
    book = {"cells": cells, "metadata": {"kernelspec": {"language": "julia"}}, "nbformat": 4}
    text, language = convert(json.dumps(book), "jupyter")
    assert language == "markdown"
    assert _blocks(text) == [("julia", 'print("``` in code")'), ("text", "short"), ("text", "42")]
    order = [text.index(part) for part in ("# Title", "in code", "short", "42", "end")]
    assert order == sorted(order)
    assert "secret" not in text and "longlong" not in text and "iVBOR" not in text and "raw" not in text
    old = {"worksheets": [{"cells": [{"cell_type": "code", "input": ["x = 1"], "outputs": []}]}], "metadata": {}}
    assert _blocks(notebook(json.dumps(old))) == [("python", "x = 1")]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": 3}', '{"cells": [{}]}', "[" * 100_000, '{"cells": [1]}'])
def test_what_is_no_notebook_is_refused(text: str) -> None:
    with pytest.raises(Unconvertible):
        convert(text, "jupyter")


def test_broken_html_is_repaired() -> None:
    text = html(
        "<html><head><title>t</title><script>var x=1</script><body>"
        "<h1>Title</h2><p>First <b>bold</b><p>Second &amp; last"
        '<div class="highlight-python notranslate"><pre>if a &lt; b:\n    "```"\n</pre></div>'
        "<ul><li>one<li>two</ul><table><tr><th>k<th>v<tr><td>1<td>2</table><nav>menu</nav><img alt='a plot'>"
    )
    assert "# Title" in text and "**bold**" in text and "Second & last" in text and "- one\n- two" in text
    assert "| k | v |" in text and "| 1 | 2 |" in text and "a plot" in text
    assert "var x" not in text and "menu" not in text
    assert _blocks(text) == [("python", 'if a < b:\n    "```"')]


def test_docbook_becomes_markdown_and_other_xml_is_refused() -> None:
    book = (
        '<?xml version="1.0"?><!DOCTYPE article [<!ENTITY x SYSTEM "file:///etc/passwd">]><article><title>Use</title>'
        "<section><title>Part</title><para>Call <function>f</function> &x; now.</para>"
        "<programlisting>f(1);</programlisting></section></article>"
    )
    text, language = convert(book, "xml")
    assert language == "markdown" and "## Part" in text and "`f`" in text and "root:" not in text
    assert _blocks(text) == [("", "f(1);")]
    with pytest.raises(Unconvertible, match="no documentation"):
        convert("<project><dependency>x</dependency></project>", "xml")
    with pytest.raises(Unconvertible):
        html("<p>" + "<div>" * 5000 + "deep")
    with pytest.raises(Unconvertible, match="nested"):
        html("<div>" * 300 + "deep" + "</div>" * 300)
    assert html("<p>a<br><li>b" * 500).count("a") == 500
    with pytest.raises(Unconvertible, match="without text"):
        html("<script>x</script>")


_LINES = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["if x:", "y = a + B", "f(1)", ""])), max_size=25)


@settings(max_examples=200)
@given(_LINES, st.sampled_from(["  ", "    ", "\t", "   "]))
def test_the_width_of_a_level_does_not_matter(lines: list[tuple[int, str]], unit: str) -> None:
    def written(unit: str) -> str:
        return "\n".join(unit * depth + line for depth, line in lines)

    assert TOKENS.findall(canonical(written(unit))) == TOKENS.findall(canonical(written("        ")))


def test_operators_case_and_structure_do_matter() -> None:
    texts = [
        "x = a + b", "x = a - b", "X = a + b", "x = a_b", "x = a", "if a:\n  b\nc", "if a:\n  b\n  c", "x = (a)",
        "x = [a]",
    ]  # fmt: skip
    assert len({tuple(TOKENS.findall(canonical(text).lower())) for text in texts}) == len(texts)
