"""Brings contents that browsers show and trafilatura loses into a form that it keeps, before it begins.

Code keeps its lines and spaces, formulas become their TeX, tables that only place things become blocks, lists in cells
stay, the answers below a question belong to it, and a text in bare sections becomes paragraphs.
"""

import copy
import re
from collections.abc import Iterator

import lxml.etree
from lxml.html import HtmlElement
from trafilatura.xpaths import BODY_XPATH

# Stand for a space, a tab and a line break in code, as long as extraction runs: it leaves none of these as they are.
_MARKS = {" ": "\u2422", "\t": "\u2409", "\n": "\u240a"}
_HIDE, _SHOW = str.maketrans(_MARKS), str.maketrans({mark: space for space, mark in _MARKS.items()})
_MARKED = "data-marked"  # an attribute of the root: the marks are ours
# Outside of code the spaces at the start of a line are the page's own; before an item they show how deep it lies.
_LEADING = re.compile(r"^[ \t\u00a0]++(?!- )", re.MULTILINE)
_NUMBERS = re.compile(r"[\d\s]+")
_LINE_BLOCKS = ("div", "p", "li", "tr")  # in code: a line each
_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "center", "dd", "details", "div", "dl", "dt", "fieldset", "figure",
    "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre",
    "section", "table", "ul",
})  # fmt: skip
_CELLS, _TABLE_PARTS = ("td", "th"), ("tbody", "thead", "tfoot", "tr", "td", "th")
_WRAPPERS = ("font", "span", "center", "b", "strong", "i", "em", "small", "div")
_LONG_CELL = 200  # characters
_SENTENCE = re.compile("[.!?。！？…；;]")
_LEAF_CHARS = 20
_FORMULA_IMAGE = re.compile(r"latex|math|\btex\b|equation|formula", re.IGNORECASE)
_DISPLAY_STYLE = re.compile(r"\{\\(?:displaystyle|textstyle)\s*(.*)\}", re.DOTALL)
_RENDERED = re.compile("MathJax|MJX")
_ANSWER = re.compile(
    r"(?:^|[\s_-])(?:accepted-?)?answers?(?:[-_]?(?:item|body|text|content|entry))?(?:$|[\s_-])", re.IGNORECASE
)
_POST_CHARS = 30


def prepare(tree: HtmlElement) -> None:
    """Change the tree of a page in place. Text extracted from it goes through `shown`."""
    _formulas(tree)
    _code(tree)
    _tables(tree)
    _posts(tree)


def shown(text: str, tree: HtmlElement) -> str:
    """Text of a prepared tree as it is meant."""
    text = _LEADING.sub("", text)
    return text.translate(_SHOW) if tree.get(_MARKED) else text


def _formulas(tree: HtmlElement) -> None:
    """MathJax's scripts and pictures of formulas give way to their TeX; trafilatura itself does so with MathML."""
    for script in list(tree.iter("script")):
        if str(script.get("type", "")).startswith("math/"):
            before = script.getprevious()
            while before is not None and _RENDERED.search(before.get("class", "")) and not (before.tail or "").strip():
                before, gone = before.getprevious(), before
                gone.drop_tree()
            _replace(script, script.text or "", "display" in script.get("type", ""))
    for image in list(tree.iter("img")):
        source = image.get("data-tex") or (
            image.get("alt", "") if _FORMULA_IMAGE.search(image.get("class", "")) else ""
        )
        parent = image.getparent()
        if source and parent is not None and parent.find(".//math") is None:  # else the picture stands in for that
            _replace(image, source, False)


def _replace(element: HtmlElement, source: str, display: bool) -> None:
    if element.getparent() is None or not source.strip():
        return
    source = " ".join(source.split())
    if style := _DISPLAY_STYLE.fullmatch(source):
        source = style[1].strip()
    opening, closing = ("\\[", "\\]") if display else ("\\(", "\\)")
    span = element.makeelement("span")
    span.text, span.tail = f"{opening}{source.strip('$ ')}{closing}", element.tail
    element.getparent().replace(element, span)


def _code(tree: HtmlElement) -> None:
    """Each block of code becomes a paragraph of one word, in which marks stand for its spaces and line breaks."""
    if any(mark in tree.text_content() for mark in _MARKS.values()):
        return  # the page is about them
    tree.set(_MARKED, "yes")
    for block in [*tree.iter("pre"), *(code for code in tree.iter("code") if code.find(".//br") is not None)]:
        if block.getparent() is None or next(block.iterancestors("pre"), None) is not None:
            continue
        text = _code_text(block)
        if _NUMBERS.fullmatch(text) and "\n" in text:  # the numbers of another block's lines
            block.drop_tree()
        elif "\n" in text:
            paragraph = block.makeelement("p")
            paragraph.text, paragraph.tail = text.translate(_HIDE), block.tail
            for up in block.iterancestors("figure", "p"):
                up.tag = "div"  # figures are taken for pictures, and no paragraph may hold another one
            block.getparent().replace(block, paragraph)


def _code_text(block: HtmlElement) -> str:
    block = copy.deepcopy(block)
    for part in list(block.iter("td", "span", "div", "a")):
        if "num" in part.get("class", "") and _NUMBERS.fullmatch(part.text_content() or " "):
            part.drop_tree()
    for line_break in list(block.iter("br")):
        line_break.tail = "\n" + (line_break.tail or "")
    for line in list(block.iter(*_LINE_BLOCKS)):
        if not line.text_content().endswith("\n") and not (line.tail or "").startswith("\n"):
            line.tail = "\n" + (line.tail or "")
    lines = [line.rstrip() for line in block.text_content().replace("\u00a0", " ").replace("\r", "").split("\n")]
    return "\n".join(lines).strip("\n")


def _tables(tree: HtmlElement) -> None:
    for table in list(tree.iter("table")):
        if _is_layout(table):
            for part in [table, *(part for part in table.iter(*_TABLE_PARTS) if _table_of(part) is table)]:
                cell = part.tag in _CELLS
                part.tag = "div"
                if cell:
                    _paragraphs(part)
    for cell in tree.iter(*_CELLS):
        for items in list(cell.iter("ul", "ol")):
            if next(items.iterancestors("ul", "ol", *_CELLS)).tag in _CELLS and not _is_menu(items):
                _in_a_line(items)


def _table_of(part: HtmlElement) -> HtmlElement:
    return next(part.iterancestors("table"))


def _is_layout(table: HtmlElement) -> bool:
    """Whether the table is a layout of the page, and not data in rows and columns."""
    if table.get("role") in ("presentation", "none"):
        return True
    heading = next(table.iter("th", "caption", "thead"), None) is not None
    if table.find(".//table") is not None:
        return not heading
    rows = [[cell for cell in row if cell.tag in _CELLS] for row in table.iter("tr")]
    if max(map(len, rows), default=0) <= 1:
        return True
    sizes = [len(cell.text_content()) for row in rows for cell in row]
    longest = max(sizes, default=0)
    if longest < _LONG_CELL or heading:
        return False
    blocks = max(
        sum(child.tag in _BLOCKS or child.tag == "br" for child in cell.iter()) for row in rows for cell in row
    )
    return 2 * longest >= sum(sizes) or blocks >= 6


def _paragraphs(cell: HtmlElement) -> None:
    """Turn line breaks in a cell that was a column of the page into paragraphs."""
    while (
        len(cell) == 1
        and cell[0].tag in _WRAPPERS
        and not (cell.text or "").strip()
        and not (cell[0].tail or "").strip()
    ):
        cell = cell[0]
        cell.tag = "div"
    for child in cell:
        if child.tag in _WRAPPERS and len(child.findall(".//br")) >= 2:
            child.tag = "div"
            _paragraphs(child)
    if sum(child.tag == "br" for child in cell) < 2:
        return
    children, text = list(cell), cell.text or ""
    for child in children:
        cell.remove(child)
    cell.text = None
    paragraph: HtmlElement | None = None

    def add(piece: str) -> None:
        nonlocal paragraph
        if not piece.strip() and paragraph is None:
            return
        if paragraph is None:
            paragraph = lxml.etree.SubElement(cell, "p")
        if len(paragraph):
            paragraph[-1].tail = (paragraph[-1].tail or "") + piece
        else:
            paragraph.text = (paragraph.text or "") + piece

    add(text)
    for child in children:
        tail, child.tail = child.tail or "", None
        if child.tag == "br":
            paragraph = None
        elif child.tag in _BLOCKS:
            paragraph = None
            cell.append(child)
        else:
            add("")
            if paragraph is None:
                paragraph = lxml.etree.SubElement(cell, "p")
            paragraph.append(child)
        add(tail)


def _is_menu(items: HtmlElement) -> bool:
    linked = sum(len(link.text_content()) for link in items.iter("a"))
    return 2 * linked > len(items.text_content())


def _in_a_line(items: HtmlElement) -> None:
    """A list in a cell of a table with data: its items in a row, since a cell is a part of a line."""
    words = "; ".join(" ".join(item.text_content().split()) for item in items.iter("li"))
    span = items.makeelement("span")
    span.text, span.tail = f" {words} ", items.tail
    parent = items.getparent()
    assert parent is not None
    parent.replace(items, span)


def _posts(tree: HtmlElement) -> None:
    """A page of several posts (a question and its answers, a thread): trafilatura takes the first for the whole."""
    found = [*BODY_XPATH[0](tree), *_answers(tree)]
    outer = [element for element in found if not any(up in found for up in element.iterancestors())]
    posts = [element for element in dict.fromkeys(outer) if len(element.text_content().strip()) >= _POST_CHARS]
    body = tree.find("body")
    if len(posts) < 2 or body is None or next(_answers(tree), None) is None:
        return
    order = {element: number for number, element in enumerate(tree.iter())}
    posts.sort(key=order.__getitem__)
    whole = body.makeelement("div", {"class": "post"})
    title = next(tree.iter("h1"), None)
    if title is not None and not any(up in posts for up in title.iterancestors()):
        posts.insert(0, title)
    body.insert(0, whole)
    for post in posts:
        whole.append(post)


def _answers(tree: HtmlElement) -> Iterator[HtmlElement]:
    for element in tree.iter("div", "article", "section", "li"):
        named = f"{element.get('class', '')} {element.get('id', '')}"
        if element.get("itemprop") in ("acceptedAnswer", "suggestedAnswer") or _ANSWER.search(named):
            yield element


def bare_blocks(tree: HtmlElement) -> list[HtmlElement]:
    """The blocks of sentences that stand in no paragraph."""
    return [
        element
        for element in tree.iter("section", "div")
        if not any(child.tag in _BLOCKS for child in element.iterdescendants())
        and len(text := element.text_content().strip()) >= _LEAF_CHARS
        and _SENTENCE.search(text)
        and 3 * sum(len(link.text_content()) for link in element.iter("a")) < len(text)
    ]
