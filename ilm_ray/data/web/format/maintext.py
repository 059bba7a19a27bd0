"""Main text of a page by trafilatura: its fast mode, and its standard mode only where the fast result is doubtful.

Standard mode asks two more extractors and takes 1.4 times as long, for another text on 7% of the pages. Nearly all of
those where that text is better are pages that show much and on which fast mode found little; only these are read twice.

Most of trafilatura's time goes into regular expressions over the class and id of every element, a dozen times a page.
So the page is parsed once, with plain element classes (lxml's own look-up calls Python for every element), and elements
that trafilatura would throw out anyway are gone before it begins.
"""

import functools
import logging
import re
import unicodedata

import lxml.etree
import lxml.html
import trafilatura
from lxml.html import HtmlElement
from trafilatura.settings import Extractor

from ilm_ray.data.documents.language import interchange
from ilm_ray.data.web.format.layout import bare_blocks, prepare, shown
from ilm_ray.data.web.format.tail import without_tail

# Chosen on one half of the annotated pages, checked on the other (benchmarks/extraction.py).
DOUBT_CHARS = 1000  # a text shorter than this
DOUBT_SHARE = 0.2  # and shorter than this share of what the page shows is doubtful
# Of a text shorter than this, and than this share of the sentences in no paragraph: these are read as paragraphs.
BARE_CHARS, BARE_SHARE = 1000, 0.5
# What never holds main text. Not <noscript>: pages that are broken elsewhere have been seen to lie in it as a whole.
_DEAD = ("style", "svg", "iframe", "link", "meta", "button", "input", "select", "textarea", "template")
# What seldom does: each of them goes only if it holds little of the text.
_BESIDE = ("nav", "footer", "aside")
_LITTLE = 0.25  # of the text of the page
_VISIBLE = lxml.etree.XPath("//body//text()[not(parent::script or parent::style or parent::noscript)]")
# No XML may hold them: libxml2 stops reading at some, lxml refuses others.
_CONTROL = bytes([*range(9), 11, 12, *range(14, 32)])
_NO_CHARACTERS = ("\ufffe".encode(), "\uffff".encode())
# What libxml2 trips over at the head of a page: odd document types, and an <html/> that is closed before it began.
_DOCTYPE = re.compile(rb"\s*<!doctype[^>]*>", re.IGNORECASE)
_CLOSED = re.compile(rb"(<html[^>]*?)/>", re.IGNORECASE)
_HEAD = 4096
# Both may stand too early (a banner, one page behind another); libxml2 reads no text behind them. Neither is needed.
_ENDS = re.compile(rb"</(?:html|body)\s*>", re.IGNORECASE)
TITLE_CHARS = 300  # of a title; some pages put a text there


def main_text(page: str) -> str | None:
    """The main text of an HTML page, NFC; None where trafilatura finds none. Raises MemoryError only."""
    tree = _parse(page)
    return None if tree is None else _main_text(tree)


def title_and_text(page: str) -> tuple[str, str]:
    """(title in the page's head, in one line; its main text), NFC, "" where there is none.

    Raises MemoryError only.
    """
    tree = _parse(page)
    if tree is None:
        return "", ""
    title = tree.find(".//title")
    words = [] if title is None else interchange(title.text_content()).split()
    return unicodedata.normalize("NFC", " ".join(words))[:TITLE_CHARS], _main_text(tree) or ""


def _main_text(tree: HtmlElement) -> str | None:
    prepare(tree)
    _slim(tree)
    text = _chosen(tree)
    return None if text is None else without_tail(text, tree)


def _chosen(tree: HtmlElement) -> str | None:
    """The fast mode's text, or where that is doubtful another one."""
    text = _extract(tree, fast=True)
    found = len(text or "")
    bare = bare_blocks(tree) if found < BARE_CHARS else []
    if found < BARE_SHARE * sum(len(block.text_content()) for block in bare):
        for block in bare:
            block.tag = "p"
        again = _extract(tree, fast=True)
        if len(again or "") > found:
            return again
    if text is not None and found < DOUBT_CHARS and found < DOUBT_SHARE * _visible_chars(tree):
        return _extract(tree, fast=False) or text
    return text


def _parse(page: str) -> HtmlElement | None:
    data = page.encode("utf-8", "replace").translate(None, _CONTROL)
    for character in _NO_CHARACTERS:
        data = data.replace(character, b"")
    if doctype := _DOCTYPE.match(data):
        data = data[doctype.end() :]
    if closed := _CLOSED.search(data, 0, _HEAD):
        data = data[: closed.start()] + closed[1] + b">" + data[closed.end() :]
    data = _ENDS.sub(b"", data)
    try:
        return lxml.html.document_fromstring(data, parser=_parser())
    except lxml.etree.ParserError:  # an empty document
        return None


def _slim(tree: HtmlElement) -> None:
    """A third of the elements less. Scripts with linked data stay: trafilatura takes articles from them."""
    lxml.etree.strip_elements(tree, *_DEAD, with_tail=False)
    for script in list(tree.iter("script")):
        if script.get("type") != "application/ld+json":
            script.drop_tree()
    total = len(tree.text_content())
    for element in list(tree.iter(*_BESIDE)):
        if len(element.text_content()) < _LITTLE * total:
            element.drop_tree()


def _extract(tree: HtmlElement, fast: bool) -> str | None:
    """trafilatura leaves `tree` as it is."""
    document = trafilatura.bare_extraction(tree, options=_options(fast))
    return unicodedata.normalize("NFC", shown(document.text, tree)) if document is not None and document.text else None


def _visible_chars(tree: HtmlElement) -> int:
    return sum(len(text.strip()) for text in _VISIBLE(tree))


@functools.lru_cache(maxsize=1)
def _parser() -> lxml.html.HTMLParser:
    parser = lxml.html.HTMLParser(remove_comments=True, remove_pis=True, encoding="utf-8")
    parser.set_element_class_lookup(
        lxml.etree.ElementDefaultClassLookup(element=HtmlElement, comment=lxml.html.HtmlComment)
    )
    return parser


@functools.lru_cache(maxsize=2)
def _options(fast: bool) -> Extractor:
    logging.getLogger("trafilatura").disabled = True  # it warns about every page without text
    return Extractor(fast=fast, comments=False, output_format="python")
