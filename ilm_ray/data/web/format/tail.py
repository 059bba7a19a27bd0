"""Hot lists and footers behind the text of Chinese pages, which trafilatura keeps: it reads their words as sentences.

A second opinion decides by page: the text behind the last line that readability's body holds goes, if readability has
most of the text and no prose lies there.
"""

import copy
import re

from lxml.html import HtmlElement
from trafilatura.external import try_readability

from ilm_ray.data.web.format.layout import shown

_HAN_SHARE = 0.3  # of the characters: a Chinese page
_MOST = 0.6  # of the text: less, and readability has found something else
_PROSE = 0.3  # of what would go: more in finished lines, and it is text
_FINISHED = re.compile("[。！？…”』」）.!?]$")
_HAN = re.compile("[\\u4e00-\\u9fff]")


def without_tail(text: str, tree: HtmlElement) -> str:
    """`text` of the page `tree`, which stays as it is, without the text behind it; other languages as they are."""
    if len(_HAN.findall(text)) < _HAN_SHARE * len(text):
        return text
    body = _squeezed(shown(str(try_readability(copy.deepcopy(tree)).text_content()), tree))
    lines = text.split("\n")
    inside = [number for number, line in enumerate(lines) if line.strip() and _squeezed(line) in body]
    if sum(len(lines[number]) for number in inside) < _MOST * len(text):
        return text
    tail = [line.strip() for line in lines[inside[-1] + 1 :]]
    prose = sum(len(line) for line in tail if _FINISHED.search(line))
    return "\n".join(lines[: inside[-1] + 1]) if prose <= _PROSE * sum(map(len, tail)) else text


def _squeezed(text: str) -> str:
    return "".join(text.split())
