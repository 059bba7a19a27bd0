"""Safe: blocked domains and blocked words (report section 3.1: about 13M domains, 36,289 words)."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import ahocorasick
import numpy as np

from ilm_ray.errors import UserError


def read_list(path: Path) -> list[str]:
    """Entries of a list file, lower case: one a line, `#` begins a comment line.

    Raises UserError where the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"block list {path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read block list {path}: {error.strerror or error}; correct its path") from None
    lines = (line.strip().lower() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


class Domains:
    """A set of domains as sorted 64-bit hashes: 13 million of them take 104 MB, not gigabytes."""

    def __init__(self, hashes: np.ndarray) -> None:
        self.hashes = hashes

    @classmethod
    def of(cls, domains: Iterable[str]) -> "Domains":
        return cls(np.unique(np.array([_hash(d.strip(".")) for d in domains], np.uint64)))

    def match(self, url: str) -> str | None:
        """The blocked domain that the URL's host is or lies under, or None."""
        try:
            host = (urlsplit(url).hostname or "").strip(".").lower()
        except ValueError:  # e.g. a bracket where an address should be: such a URL has no host
            return None
        labels = host.split(".")
        for start in range(len(labels)):
            domain = ".".join(labels[start:])
            key = np.uint64(_hash(domain))
            place = int(np.searchsorted(self.hashes, key))
            if place < len(self.hashes) and self.hashes[place] == key:
                return domain
        return None


class Words:
    """Finds all blocked words in one pass. Where a word begins or ends with a Latin letter, so must the match."""

    def __init__(self, words: Iterable[str]) -> None:
        self._automaton = ahocorasick.Automaton()
        for word in words:
            self._automaton.add_word(word.lower(), word.lower())
        if len(self._automaton):
            self._automaton.make_automaton()

    def matches(self, text: str) -> list[str]:
        """Blocked words in the order of their ends, each occurrence once."""
        if not len(self._automaton):
            return []
        text = text.lower()
        found = []
        for last, word in self._automaton.iter(text):
            first = last - len(word) + 1
            if not (_joined(text, first - 1, first) or _joined(text, last, last + 1)):
                found.append(word)
        return found


def _joined(text: str, left: int, right: int) -> bool:
    """Do two neighbouring characters belong to one Latin word?"""
    return left >= 0 and right < len(text) and _in_word(text[left]) and _in_word(text[right])


def _in_word(character: str) -> bool:
    # Up to the end of Latin, Greek and Cyrillic; Chinese characters stand for themselves.
    return character.isalnum() and character < "\u0530"


def _hash(domain: str) -> int:
    return int.from_bytes(hashlib.blake2b(domain.encode("utf-8", "replace"), digest_size=8).digest(), "little")
