"""The grammar: sentences, paragraphs and articles in English and Chinese about ordinary subjects.

A `Writer` fills templates from the word lists of one topic. Every list is drawn like a pack of cards (no entry comes
back before all the others were used), so an article does not repeat itself, which the quality filters would punish.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from demo.templates import COMMON_EN, COMMON_ZH, SENTENCES_EN, SENTENCES_ZH, SHARED, TITLES_EN, TITLES_ZH
from demo.topics_en import TOPICS_EN, Topic
from demo.topics_zh import TOPICS_ZH

TOPICS: dict[str, tuple[Topic, ...]] = {"en": TOPICS_EN, "zh": TOPICS_ZH}
_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiouAEIOU])(?!one|uni|use|eu)")


class Deck:
    """Draws entries without repeats until all are used, then shuffles anew."""

    def __init__(self, rng: random.Random, items: Sequence[str]) -> None:
        self._rng = rng
        self._items = list(items)
        self._left: list[str] = []

    def draw(self) -> str:
        """The next entry."""
        if not self._left:
            self._left = self._items[:]
            self._rng.shuffle(self._left)
        return self._left.pop()


@dataclass(frozen=True)
class Article:
    """A title and its paragraphs."""

    title: str
    paragraphs: tuple[str, ...]
    language: str
    topic: str

    @property
    def text(self) -> str:
        """The paragraphs, one to a line."""
        return "\n".join(self.paragraphs)


def place_name(rng: random.Random, language: str) -> str:
    """An invented town."""
    if language == "zh":
        first_zh, last_zh = "青白金石云松柳竹桃梅清平安和长", "石水山河桥溪林泉湖岭田塘"
        return rng.choice(first_zh) + rng.choice(last_zh) + rng.choice("镇村城县")
    first = (
        "Amber",
        "Alder",
        "Brack",
        "Cold",
        "Dun",
        "East",
        "Fern",
        "Green",
        "Hazel",
        "Larks",
        "Marl",
        "North",
        "Oak",
        "Pebble",
        "Quarry",
        "Rowan",
        "Stone",
        "Thorn",
        "Under",
        "West",
    )
    last = ("bridge", "brook", "bury", "dale", "field", "ford", "gate", "ham", "mere", "mouth", "ton", "wick", "worth")
    return rng.choice(first) + rng.choice(last)


def person_name(rng: random.Random, language: str) -> str:
    """An invented person."""
    if language == "zh":
        call = ("师傅", "老师", "奶奶", "先生", "女士", "大叔", "阿姨")
        return rng.choice("王李张刘陈杨赵黄周吴徐孙马朱胡林何高") + rng.choice(call)
    first = (
        "Ada",
        "Bruno",
        "Clara",
        "Dorian",
        "Edith",
        "Felix",
        "Greta",
        "Hugo",
        "Iris",
        "Jonas",
        "Karin",
        "Lewis",
        "Mabel",
        "Nils",
        "Olive",
        "Piers",
        "Rosa",
        "Silas",
        "Tilda",
        "Victor",
    )
    last = (
        "Aldous",
        "Barnaby",
        "Crane",
        "Dorrit",
        "Elwood",
        "Fenner",
        "Garland",
        "Hollis",
        "Ingram",
        "Jessop",
        "Kettle",
        "Lorne",
        "Marsh",
        "Nettleton",
        "Orchard",
        "Pell",
        "Quill",
        "Rook",
        "Sorrel",
        "Tanner",
    )
    return f"{rng.choice(first)} {rng.choice(last)}"


class Writer:
    """Writes about one topic in one language from one random stream."""

    def __init__(self, rng: random.Random, topic: Topic, language: str) -> None:
        self.rng = rng
        self.topic = topic
        self.language = language
        lists: dict[str, Sequence[str]] = dict(COMMON_ZH if language == "zh" else COMMON_EN)
        for slot in ("people", "things", "many", "adjs", "do", "places", "clauses"):
            lists[slot] = getattr(topic, slot)
        for slot, shared in SHARED[language].items():
            lists[slot] = (*lists[slot], *rng.sample(shared, 9))
        self._decks = {slot: Deck(rng, items) for slot, items in lists.items()}
        self._templates = Deck(rng, SENTENCES_ZH if language == "zh" else SENTENCES_EN)
        self._town = place_name(rng, language)
        self._person = person_name(rng, language)

    def _fill(self, match: re.Match[str]) -> str:
        slot = match.group(1)
        if slot == "title":
            return self.topic.title
        if slot == "town":
            return self._town if self.rng.random() < 0.4 else place_name(self.rng, self.language)
        if slot == "person":
            return self._person if self.rng.random() < 0.5 else person_name(self.rng, self.language)
        if slot == "year":
            return str(self.rng.randint(1705, 2019))
        if slot == "num":
            return str(self.rng.randint(3, 95))
        return self._decks[slot].draw()

    def fill(self, template: str) -> str:
        """Fill the slots of a template and mend what filling breaks (a/an, the capital at the start)."""
        text = _SLOT.sub(self._fill, template)
        if self.language == "en":
            text = _ARTICLE.sub(r"\1n ", text)
        return text[0].upper() + text[1:]

    def sentence(self) -> str:
        """One sentence."""
        return self.fill(self._templates.draw())

    def paragraph(self, sentences: int) -> str:
        """Several sentences on one line."""
        return ("" if self.language == "zh" else " ").join(self.sentence() for _ in range(sentences))

    def title(self) -> str:
        """A headline."""
        return self.fill(self.rng.choice(TITLES_ZH if self.language == "zh" else TITLES_EN))

    def article(self, low: int, high: int) -> Article:
        """A title and between `low` and `high` paragraphs of two to four sentences (five in Chinese)."""
        title = self.title()
        most = 5 if self.language == "zh" else 4
        paragraphs = tuple(self.paragraph(self.rng.randint(2, most)) for _ in range(self.rng.randint(low, high)))
        return Article(title, paragraphs, self.language, self.topic.name)


def writer(rng: random.Random, language: str) -> Writer:
    """A writer on a topic drawn at random."""
    return Writer(rng, rng.choice(TOPICS[language]), language)
