"""Clean: one form for the same text, and lines that no author wrote taken out (report section 3.1).

Both functions are idempotent. What a reader would see as the same must become the same; what carries meaning stays:
letters, punctuation with its width, line breaks, joiners where a script needs them.
"""

import re
import unicodedata

from ilm_ray.data.documents.language import interchange

# Most texts have none of these, nor anything beyond the basic plane: two searches spare them the slow steps.
_RARE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff"
    "\ufdd0-\ufdef\ufeff\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\ufff9-\ufffc\ufffe\uffff]"
)
_BEYOND = re.compile("[\U00010000-\U0010ffff]")
_BREAKS = re.compile("[\r\v\f\x85\u2028\u2029]")
_INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffc]")
# Joiners belong between letters of Arabic, Syriac, Mongolian and the Indic scripts, ZWJ also inside an emoji sequence.
_JOINED = "\u0600-\u08ff\u0900-\u0dff\u1000-\u109f\u1800-\u18af\ua8e0-\ua8ff"
_EMOJI = "\u00a9\u00ae\u203c\u2049\u2122\u2139\u2194-\u2b55\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"  # no spaces
_JOINERS = re.compile(
    f"(?<![{_JOINED}])\u200c|\u200c(?![{_JOINED}])|(?<![{_JOINED}{_EMOJI}\ufe0f])\u200d|\u200d(?![{_JOINED}{_EMOJI}])"
)
_FULL_WIDTH = re.compile("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]")  # digits and letters
# A full-width mark never starts a line or follows a space, and has its own space after it.
_MARK = re.compile("[，。、；：！？]")
_BEFORE_MARK = re.compile("(?<=\\S)[ \n](?=[，。、；：！？])")
_AFTER_MARK = re.compile("(?<=[，。、；：]) ")
_HAN = "\u3400-\u9fff"
# Chinese has no letter-spacing but this: three or more lone characters. A space between words may be a separator.
_SPACED = re.compile(f"[{_HAN}](?<!\\S.)(?: [{_HAN}]){{2,}}(?!\\S)")


def normalise(text: str) -> str:
    """NFC; no control or invisible characters; single spaces; stripped lines, at most one blank line in a row.

    Chinese: full-width letters and digits become half-width (punctuation stays), spaces around full-width marks and
    inside letter-spaced words go. Table rows with one cell become that cell. Other spaces between Chinese characters
    stay: they part the items of menus, names and verses, and the rules should see them.
    """
    text = text.replace("\r\n", "\n")
    if _RARE.search(text) or _BEYOND.search(text):
        text = _INVISIBLE.sub("", interchange(_BREAKS.sub("\n", text)))
        text = _FULL_WIDTH.sub(lambda match: chr(ord(match[0]) - 0xFEE0), _JOINERS.sub("", text))
    text = unicodedata.normalize("NFC", text)
    text = "\n".join([_cell(" ".join(line.split())) for line in text.split("\n")])
    if _MARK.search(text):
        text = _AFTER_MARK.sub("", _BEFORE_MARK.sub("", text))
    if not text.isascii():
        text = _SPACED.sub(lambda match: match[0].replace(" ", ""), text)
    return _few_blank_lines(text)


def _cell(line: str) -> str:
    """A table row of one cell is that cell, one of none is empty: pages use tables for layout."""
    if not line.startswith("|"):
        return line
    cells = [cell for cell in line.split("|") if cell and not cell.isspace()]
    return line if len(cells) > 1 else "".join(cells).strip()


def _few_blank_lines(text: str) -> str:
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.strip("\n")


_LONGEST_CHROME = 120  # characters
_CHROME = frozenset(
    """
advertisement|advertisements|all rights reserved|all rights reserved.|accept cookies|accept all cookies
back to top|click here|click to enlarge|continue reading|continue reading...|cookie policy|email this|follow us
follow us on facebook|follow us on twitter|learn more|leave a comment|leave a reply|like loading...|like this:
load more|loading...|loading…|log in|log in to reply|next|next »|pin it|post a comment|previous|print this page
privacy policy|read more|read more »|read more...|read more…|register|related articles|related posts|reply
report abuse|see more|share|share on facebook|share on twitter|share this|share this:|share via email|show more
sign in|sign up|skip to content|skip to main content|skip to navigation|sponsored content|subscribe
terms of service|terms of use|top of page|tweet|you may also like|« previous|分享|分享到|分享到：|分享到:
阅读全文|查看更多|加载更多|展开全文|点击查看|上一篇|下一篇|返回顶部|返回首页|回到顶部|加入收藏|设为首页|打印
打印本页|关闭窗口|【关闭】|【打印】|我要评论|发表评论|登录|注册|登录注册|版权所有|责任编辑|相关阅读|相关新闻
推荐阅读|扫一扫
""".strip()
    .replace("\n", "|")
    .split("|")
)
_COUNTER = re.compile(
    r"(?:\d[\d,.]*[km]?\+?) (?:likes?|shares?|views?|comments?|replies|retweets|followers|tweets?)"
    r"|(?:likes?|shares?|views?|comments?|阅读|评论|点赞|浏览|转发|收藏|人气)[:：]? ?\(?\d[\d,.]*[km万]?\)?"
    r"|\d[\d,.]*万?(?:次阅读|次浏览|条评论|人阅读|人评论|个赞)"
)
_SCRIPTS = re.compile(
    r"(?:enable|activate|turn on|requires?|启用|开启|不支持) ?javascript"
    r"|javascript (?:is|must|needs to|has to) (?:be )?(?:enabled|disabled|required|turned)|javascript(?:已|被)"
)
_COOKIES = re.compile(
    r"(?:uses?|using|accept|consent|设置|使用).{0,40}cookie|cookie.{0,40}(?:experience|consent|polic)"
)


def drop_chrome(text: str) -> tuple[str, int]:
    """A normalised text without the lines that belong to the page and not to its text, and how many those were.

    Whole lines only, and only where the line says nothing else: "read more", counters of likes, requests for scripts
    or cookies. C4 drops any line that names javascript; an article on it would lose its subject.
    """
    lines = text.split("\n")
    kept = [line for line in lines if not line or len(line) > _LONGEST_CHROME or not _is_chrome(line.lower())]
    removed = len(lines) - len(kept)
    return (_few_blank_lines("\n".join(kept)), removed) if removed else (text, 0)


def _is_chrome(line: str) -> bool:
    if line in _CHROME:
        return True
    if ("javascript" in line and _SCRIPTS.search(line)) or ("cookie" in line and _COOKIES.search(line)):
        return True
    return len(line) < 30 and _COUNTER.fullmatch(line) is not None
