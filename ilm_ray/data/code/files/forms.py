"""The markdown form of a file: notebooks and HTML become markdown, code a fenced block (report section 3.2)."""

import json
import re
import warnings
from typing import Any, NamedTuple

from bs4 import BeautifulSoup, XMLParsedAsHTMLWarning
from markdownify import MarkdownConverter

_FENCE = re.compile(r"`{3,}")
_HTML = frozenset({"html", "xml"})
_NO_CONTENT = ("script", "style", "noscript", "template", "nav", "iframe", "svg", "head", "form", "button")
# DocBook and its like, by what they are in HTML.
_DOCBOOK = {
    "para": "p", "simpara": "p", "title": "h2", "programlisting": "pre", "screen": "pre", "literallayout": "pre",
    "itemizedlist": "ul", "orderedlist": "ol", "listitem": "li", "emphasis": "em", "literal": "code", "ulink": "a",
    "function": "code", "filename": "code", "command": "code", "varname": "code", "informaltable": "table", "row": "tr",
    "entry": "td",
}  # fmt: skip
_DOCBOOK_ROOT = re.compile(r"<(book|article|chapter|section|sect1|refentry|appendix|preface|reference|topic)\b[^>]*>")
_XML_HEAD = re.compile(r"\s*(?:<\?xml[^<>]*\?>\s*)?(?:<!DOCTYPE[^<>\[]*(?:\[[^\]]*\])?[^<>]*>)?", re.I)
_BLANK_LINES = re.compile(r"\n{3,}")
_MAX_OUTPUT_CHARS = 500  # longer outputs are logs and tables, not explanation
_MAX_DEPTH = 200  # of nested elements; markdownify recurses
_MAX_OPEN = 400  # start tags without end tags: broken markup has more of them than it is deep
_TAG = re.compile(r"<(/?)([a-zA-Z][\w-]*)(?:\s[^<>]*)?>")
_NO_END = frozenset({
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr",
    "p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "option",
})  # fmt: skip


class CodeText(NamedTuple):
    """The text of a file, and the language that the text is in."""

    text: str
    language: str


class Unconvertible(ValueError):
    """The file is of another kind than its name says."""


def convert(text: str, language: str) -> CodeText:
    """Notebooks and HTML as markdown; anything else as it is. Raises Unconvertible."""
    if language == "jupyter":
        return CodeText(notebook(text), "markdown")
    if language in _HTML:
        return CodeText(html(text, language), "markdown")
    return CodeText(text, language)


def section(path: str, text: str, language: str) -> str:
    """`## path` and the content: markdown as it is, anything else in a fence that the content does not hold."""
    body = text.strip("\n") if language == "markdown" else fenced(text, language)
    return f"## {path}\n\n{body.rstrip()}\n"


def fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks in the text."""
    fence = "`" * max([3, *(len(run) + 1 for run in _FENCE.findall(text))])
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def notebook(text: str) -> str:
    """Cells in order: markdown as it is, code fenced, short text outputs fenced as text, all other outputs dropped.

    Raises Unconvertible where the text is no notebook (format 3 or 4).
    """
    try:
        book = json.loads(text)
        cells = book["cells"] if "cells" in book else [c for sheet in book["worksheets"] for c in sheet["cells"]]
        language = _notebook_language(book)
        parts = [part for cell in cells for part in _cell(cell, language)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Unconvertible("no notebook") from None
    return "\n\n".join(part for part in parts if part.strip()) + "\n"


def html(text: str, language: str = "html") -> str:
    """HTML, or XML documentation in the manner of DocBook, as markdown. html5lib repairs broken markup as browsers do.

    Raises Unconvertible where it holds no text, is nested too deeply, or is XML of another kind.
    """
    if language == "xml":
        if not _DOCBOOK_ROOT.search(text[:4096]):
            raise Unconvertible("XML that is no documentation")
        text = text[_XML_HEAD.match(text).end() :]  # type: ignore[union-attr]  # it may be empty but always matches
    if _open_elements(text) > _MAX_OPEN:
        raise Unconvertible("elements nested too deeply")
    try:
        with warnings.catch_warnings():  # XML on purpose: its elements get HTML's names
            warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)
            soup = BeautifulSoup(text, "html5lib")
        for element in soup.find_all(_NO_CONTENT):
            element.decompose()
        for element in soup.find_all(list(_DOCBOOK)):
            element.name = _DOCBOOK[element.name]
        if _depth(soup) > _MAX_DEPTH:
            raise Unconvertible("elements nested too deeply")
        converted = _Converter(heading_style="ATX", bullets="-", code_language_callback=_code_language).convert_soup(
            soup
        )
    except RecursionError:
        raise Unconvertible("elements nested too deeply") from None
    converted = _BLANK_LINES.sub("\n\n", "\n".join(line.rstrip() for line in converted.split("\n"))).strip()
    if not converted:
        raise Unconvertible("markup without text")
    return converted + "\n"


class _Converter(MarkdownConverter):
    """Pictures leave their description; fences do not collide with their content."""

    def convert_img(self, el: Any, text: str, parent_tags: set[str]) -> str:
        return str(el.get("alt") or "")

    def convert_pre(self, el: Any, text: str, parent_tags: set[str]) -> str:
        return f"\n\n{fenced(el.get_text().strip(chr(10)), _code_language(el))}\n\n" if text.strip() else ""


def _code_language(el: Any) -> str:
    """`language-python`, `highlight-python` and the like, of a block or of elements around or in it."""
    near = [el, el.find("code"), *el.parents][:5]
    classes = " ".join(
        " ".join(element.get("class") or ()) for element in near if element is not None and element.attrs
    )
    named = re.search(r"(?:language|lang|highlight|highlight-source|brush:?)[- ]?([a-z][\w+#]*)", classes)
    return named[1] if named and named[1] not in ("default", "notranslate", "none", "text") else ""


def _cell(cell: dict[str, Any], language: str) -> list[str]:
    source = _joined(cell.get("source", cell.get("input", "")))
    if cell["cell_type"] == "code":
        outputs = [_output(output) for output in cell.get("outputs", [])]
        shown = [fenced(text, "text") for text in outputs if text.strip() and len(text) <= _MAX_OUTPUT_CHARS]
        return [fenced(source, language) if source.strip() else "", *shown]
    if cell["cell_type"] == "heading":  # format 3
        return ["#" * int(cell.get("level", 1)) + " " + source]
    return [source] if cell["cell_type"] == "markdown" else []


def _output(output: dict[str, Any]) -> str:
    """Text that a cell printed or gave back; errors and rich outputs are none."""
    if output.get("output_type") == "stream":
        return _joined(output.get("text", ""))
    data = output.get("data", output)
    return _joined(data.get("text/plain", data.get("text", ""))) if set(data) <= _PLAIN else ""


_PLAIN = {"text/plain", "output_type", "text", "metadata", "execution_count", "prompt_number"}


def _joined(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


def _notebook_language(book: dict[str, Any]) -> str:
    about = book.get("metadata", {})
    named = about.get("language_info", {}).get("name") or about.get("kernelspec", {}).get("language") or "python"
    return named if isinstance(named, str) and re.fullmatch(r"[\w+#.-]{1,30}", named) else "python"


def _open_elements(text: str) -> int:
    """The most elements open at once, roughly, of those that need an end tag: the parser's time is quadratic in it."""
    opened = most = 0
    for tag in _TAG.finditer(text):
        if tag[2].lower() not in _NO_END and not tag[0].endswith("/>"):
            opened += -1 if tag[1] else 1
            most = max(most, opened)
    return most


def _depth(soup: BeautifulSoup) -> int:
    deepest = 0
    todo: list[tuple[Any, int]] = [(soup, 0)]
    while todo:
        node, depth = todo.pop()
        deepest = max(deepest, depth)
        todo += [(child, depth + 1) for child in node.find_all(True, recursive=False)]
    return deepest
