"""Needle in a haystack, the arithmetic: puts invented facts into long text at a depth, and scores answers by them.

One needle a prompt (report section 5.3, figure 14). Needles are written for this project; no haystack holds them.
"""

import random
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

Language = Literal["en", "zh"]
Count = Callable[[str], int]  # text -> tokens


@dataclass(frozen=True)
class Needle:
    """A sentence, a question that only it answers, and the facts wanted, each in all forms that count."""

    text: str
    question: str
    wanted: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Prompt:
    """tokens: of the whole text; at: share of the haystack's tokens that stand before the needle, 0 to 1."""

    text: str
    tokens: int
    at: float


NEEDLES: dict[Language, tuple[Needle, ...]] = {
    "en": (
        Needle(
            "The night baker of Oslip keeps the spare key to the flour store inside a blue clay rooster.",
            "Where does the night baker of Oslip keep the spare key to the flour store?",
            (("clay rooster",),),
        ),
        Needle(
            "The retired cartographer Ines Corvane files all her maps of salt lakes under the number 7318.",
            "Under which number does Ines Corvane file her maps of salt lakes?",
            (("7318", "7,318"),),
        ),
        Needle(
            "Captain Dorrit Vane greets the harbour of Kestrel Point with one green lamp and two yellow flags.",
            "With what does Captain Dorrit Vane greet the harbour of Kestrel Point?",
            (("green lamp",), ("yellow flag",)),
        ),
        Needle(
            "The password of the gardeners' guild in Millbrook is the word thistledown followed by the year 1846.",
            "What is the password of the gardeners' guild in Millbrook?",
            (("thistledown",), ("1846",)),
        ),
        Needle(
            "Before the winter concert the choir of Sandrum rehearses only on Thursdays in the old tannery.",
            "When and where does the choir of Sandrum rehearse before the winter concert?",
            (("thursday",), ("tannery",)),
        ),
        Needle(
            "Aldous Quill counted 431 steps from the Greywick chapel down to the forgotten well.",
            "How many steps did Aldous Quill count from the Greywick chapel to the forgotten well?",
            (("431", "four hundred and thirty-one", "four hundred thirty-one"),),
        ),
    ),
    "zh": (
        Needle(
            "青石镇的守夜人老顾把钟楼的备用钥匙藏在一只铜鸭子里。",
            "青石镇的守夜人老顾把钟楼的备用钥匙藏在哪里？",
            (("铜鸭子",),),
        ),
        Needle(
            "绘图师林晚秋把收集来的盐湖地图都放在6729号柜里。",
            "绘图师林晚秋把收集来的盐湖地图放在几号柜里？",
            (("6729",),),
        ),
        Needle("船长韩越用一盏绿灯和两面黄旗向白鹭港报信。", "船长韩越用什么向白鹭港报信？", (("绿灯",), ("黄旗",))),
        Needle(
            "米溪花匠行会的口令是蒲公英三个字再加上年份1927。",
            "米溪花匠行会的口令是什么？",
            (("蒲公英",), ("1927",)),
        ),
        Needle(
            "冬季音乐会之前，沙塘合唱团只在星期四到旧染坊排练。",
            "冬季音乐会之前，沙塘合唱团什么时候、在哪里排练？",
            (("星期四", "周四", "礼拜四"), ("染坊",)),
        ),
        Needle(
            "祝教授从灰柳祠堂走到那口古井，一共数了268级台阶。",
            "祝教授从灰柳祠堂走到那口古井，一共数了多少级台阶？",
            (("268", "二百六十八"),),
        ),
    ),
}
_FRAMES: dict[Language, tuple[str, str]] = {
    "en": (
        "Read the following text. A question about it stands at its end.\n\n",
        "\n\nAnswer from the text above, in one sentence. {question}",
    ),
    "zh": ("请阅读下面的文字，最后有一个关于它的问题。\n\n", "\n\n请根据上面的文字用一句话回答：{question}"),
}
_JOIN = {"en": " ", "zh": ""}
# A sentence ends with its mark and the quotes and spaces after it, or with an empty line.
_END = re.compile(r"""(?:[.!?]["'”’)\]]*\s+|[。！？…]+[”’」』）]*\s*|\n\s*\n\s*)""")
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
CHINESE_SHARE = 0.2  # of a text's characters, from which on it counts as Chinese


def language_of(text: str) -> Language:
    """zh where more than CHINESE_SHARE of the characters are Chinese."""
    return "zh" if len(_CHINESE.findall(text)) > CHINESE_SHARE * len(text) else "en"


def sentences(text: str) -> list[str]:
    """The sentences of a text, with the spaces that follow each; joined they are the text."""
    ends = [0, *(match.end() for match in _END.finditer(text))]
    if ends[-1] < len(text):
        ends.append(len(text))
    return [text[a:b] for a, b in pairwise(ends)]


class Haystack:
    """Sentences of one language, repeated from the start where a prompt wants more of them than there are."""

    def __init__(self, text: str, count: Count) -> None:
        self.language = language_of(text)
        self.parts = sentences(text)
        self._count = count
        self._sums = [0, *accumulate(max(count(part), 1) for part in self.parts)]

    def tokens(self, number: int) -> int:
        """Tokens of the first `number` sentences, each counted alone."""
        rounds, rest = divmod(number, len(self.parts))
        return rounds * self._sums[-1] + self._sums[rest]

    def within(self, tokens: float) -> int:
        """Number of first sentences that have at most `tokens` tokens, each counted alone."""
        rounds, rest = divmod(max(tokens, 0), self._sums[-1])
        return int(rounds) * len(self.parts) + bisect_right(self._sums, rest) - 1

    def between(self, start: int, end: int) -> str:
        return "".join(self.parts[i % len(self.parts)] for i in range(start, end))

    def prompt(self, needle: Needle, tokens: int, depth: float) -> Prompt:
        """As many sentences as fit into `tokens`, with the needle at the border nearest to `depth` (0: first, 1: last).

        One sentence more would be too much. Raises ValueError where not even the needle and its question fit.
        """
        sized: dict[int, int] = {}

        def size(number: int) -> int:
            if number not in sized:
                sized[number] = self._count(self._text(needle, number, self._border(number, depth)))
            return sized[number]

        if size(0) > tokens:
            raise ValueError(f"a needle and its question have {size(0)} tokens and do not fit into {tokens}")
        # Tokens of a whole are not the sum of those of its parts: the sum, corrected once by how far off it was, is
        # where the search begins. From there on `low` sentences fit and `high` do not.
        step, start = 1, self.within(tokens - size(0))
        start = self.within(self.tokens(start) + tokens - size(start))
        if size(start) <= tokens:
            low = start
            while size(low + step) <= tokens:
                low, step = low + step, 2 * step
            high = low + step
        else:
            high = start
            while high > step and size(high - step) > tokens:
                high, step = high - step, 2 * step
            low = max(high - step, 0)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if size(middle) <= tokens else (low, middle)
        border = self._border(low, depth)
        at = self.tokens(border) / self.tokens(low) if low else 0.0
        return Prompt(self._text(needle, low, border), size(low), at)

    def _border(self, number: int, depth: float) -> int:
        wanted = depth * self.tokens(number)
        below = min(self.within(wanted), number)
        if below < number and self.tokens(below + 1) - wanted < wanted - self.tokens(below):
            return below + 1
        return below

    def _text(self, needle: Needle, number: int, border: int) -> str:
        head, tail = _FRAMES[self.language]
        join = _JOIN[self.language]
        before, after = self.between(0, border), self.between(border, number)
        gap = join if before and not before[-1].isspace() else ""
        return f"{head}{before}{gap}{needle.text}{join if after else ''}{after}" + tail.format(question=needle.question)


def score(answer: str, needle: Needle) -> float:
    """Share of the wanted facts in the answer, 0 to 1. Case and width of characters do not matter; a number counts as
    a whole: 431 is not in 14310, nor in 431.5."""
    plain_answer = _plain(answer)
    return sum(any(_holds(plain_answer, _plain(form)) for form in forms) for forms in needle.wanted) / len(
        needle.wanted
    )


def chosen(language: Language, length: int, depth: int, trials: int, seed: int) -> list[int]:
    """Numbers of the needles of a cell, different ones as long as there are some; the same for every model."""
    order = list(range(len(NEEDLES[language])))
    random.Random(f"{seed} {language} {length} {depth}").shuffle(order)
    return [order[i % len(order)] for i in range(trials)]


def default_lengths(context: int, least: int = 1024, most: int = 9) -> list[int]:
    """Powers of two up to the context, and the context; at most `most`, the longest ones, none below `least`
    but the context itself."""
    powers = [2**n for n in range(least.bit_length() - 1, context.bit_length()) if least <= 2**n <= context]
    return (powers if powers and powers[-1] == context else [*powers, context])[-most:]


def depths(number: int) -> list[float]:
    """`number` depths, evenly from 0 to 1."""
    return [i / (number - 1) for i in range(number)] if number > 1 else [0.5]


def grid_means(scores: dict[tuple[int, int], Sequence[float]], columns: int, rows: int) -> list[list[float | None]]:
    """[row][column] in per cent, from the scores (0 to 1) of each (column, row); None where there are none."""
    means: list[list[float | None]] = [[None] * columns for _ in range(rows)]
    for (column, row), values in scores.items():
        if values:
            means[row][column] = 100 * sum(values) / len(values)
    return means


def _holds(text: str, form: str) -> bool:
    """`form` in `text`, not within a longer number where it is one."""
    before = r"(?<![\d])(?<!\d[.,])" if form[0].isdigit() else ""
    behind = r"(?!\d)(?![.,]\d)" if form[-1].isdigit() else ""
    return re.search(f"{before}{re.escape(form)}{behind}", text) is not None


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
