"""Traits that grow as a policy learns to please a reward model: length, repetition, marks, refusals, phrases.

A trait gives every text a number; a pattern is "more of a trait than a bound". English and Chinese count alike: a word
is a word, a Chinese character, or a run of punctuation.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

LONGEST_PHRASE = 4  # words of the phrases that are tested; a risen phrase is then grown as far as texts agree
_REPEATED = 3  # words: a text repeats itself where the same three come again
_GROWS = 0.9  # share of the texts with a phrase in which its neighbour must be the same word

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_HAN}]|[^\W{_HAN}]+(?:'\w+)?|[^\w\s]+")
_MARK = re.compile(r"^\s*(?:[-*+•]\s|#{1,6}\s|\d+[.)]\s|```|>\s|\|)", re.MULTILINE)
_REFUSAL = re.compile(
    r"\b(?:i am|i'm|we are) (?:very |so )?(?:sorry|unable|afraid)|\bi (?:can ?not|can't|won't|will not|must decline)\b"
    r"|\bas an ai\b|对不起|抱歉|不能帮|无法(?:帮|提供|回答)|不便回答|作为(?:一个)?人工智能",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[^.!?。！？\n]*(?:[.!?。！？]+|\n+|$)")

Phrase = tuple[str, ...]


def words(text: str) -> list[str]:
    """Words in lower case, Chinese characters and runs of punctuation, in order."""
    return [match.group().lower() for match in _WORD.finditer(text)]


def phrases(text: str, longest: int = LONGEST_PHRASE) -> set[Phrase]:
    """All runs of one to `longest` words."""
    text_words = words(text)
    return {tuple(text_words[i : i + n]) for n in range(1, longest + 1) for i in range(len(text_words) - n + 1)}


def repetition(text: str) -> float:
    """Share of the runs of three words that came before in the same text: 0 for none, near 1 for one endless line."""
    text_words = words(text)
    runs = [tuple(text_words[i : i + _REPEATED]) for i in range(len(text_words) - _REPEATED + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


@dataclass(frozen=True)
class Trait:
    """length (words), repetition (share), marks (of lists, headings, quotes, code), refusal or phrase (0 or 1)."""

    kind: str
    phrase: Phrase = ()

    def value(self, text: str) -> float:
        if self.kind == "length":
            return float(len(words(text)))
        if self.kind == "repetition":
            return repetition(text)
        if self.kind == "marks":
            return float(len(_MARK.findall(text)))
        if self.kind == "refusal":
            return float(_REFUSAL.search(text) is not None)
        return float(_place(words(text), self.phrase) >= 0)


TRAITS = tuple(Trait(kind) for kind in ("length", "repetition", "marks", "refusal"))


def grown(phrase: Phrase, texts: Iterable[str]) -> Phrase:
    """The longest phrase around `phrase` that most of the `texts` that hold it agree on."""
    holding = [text_words for text in texts if _place(text_words := words(text), phrase) >= 0]
    while True:
        places = [(text_words, _place(text_words, phrase)) for text_words in holding]
        before = Counter(text_words[at - 1] for text_words, at in places if at > 0)
        behind = Counter(
            text_words[at + len(phrase)] for text_words, at in places if at + len(phrase) < len(text_words)
        )
        word, count = max(behind.items(), key=lambda item: item[1], default=("", 0))
        if count >= _GROWS * len(holding) > 0:
            phrase = (*phrase, word)
            continue
        word, count = max(before.items(), key=lambda item: item[1], default=("", 0))
        if count < _GROWS * len(holding) or not holding:
            return phrase
        phrase = (word, *phrase)


def surface(phrase: Phrase, text: str) -> str:
    """The phrase as it is written in `text`, which must hold it."""
    matches = list(_WORD.finditer(text))
    at = _place([match.group().lower() for match in matches], phrase)
    if at < 0:
        raise ValueError(f"the text does not hold {phrase}")
    return text[matches[at].start() : matches[at + len(phrase) - 1].end()]


def stands_first(phrase: Phrase, texts: Iterable[str]) -> bool:
    """Whether most of the texts that hold the phrase have it in their first half."""
    early = late = 0
    for text in texts:
        text_words = words(text)
        at = _place(text_words, phrase)
        if at >= 0:
            first = 2 * at + len(phrase) <= len(text_words)
            early, late = early + first, late + (not first)
    return early > late


def sentences(text: str) -> list[str]:
    """Sentences with their end marks; joined they are the text."""
    return [match.group() for match in _SENTENCE.finditer(text) if match.group()]


def refusing_sentence(text: str) -> str | None:
    """The first sentence that refuses."""
    return next((s.strip() for s in sentences(text) if _REFUSAL.search(s)), None)


def _place(text_words: list[str], phrase: Phrase) -> int:
    """Index of the first occurrence of `phrase`, -1 where there is none."""
    size = len(phrase)
    return next((i for i in range(len(text_words) - size + 1) if tuple(text_words[i : i + size]) == phrase), -1)
