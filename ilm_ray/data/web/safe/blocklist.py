"""Safe: blocked domains and blocked words (report section 3.1: about 13M domains, 36,289 words)."""

import functools
import gzip
import importlib.resources
import ipaddress
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import ahocorasick
import numpy as np

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import temporary_path
from ilm_ray.data.documents.codepoints import flatten
from ilm_ray.data.web.safe.hosts import ODD, fill, find_blocked, holds, host_key, scan_lines

_BLOCK = 4 << 20  # bytes of a list in memory at once; no line is longer
_SLOTS = 2  # of the table for each domain: 16 bytes a domain, and a look-up reads two or three of them


@dataclass(frozen=True)
class DomainList:
    """Counts of a list's lines, by their fate."""

    domains: int  # distinct, in the table
    ignored: int  # lines that name no domain: URLs with a path, single labels, expressions
    public_suffixes: list[str]  # entries such as co.uk, which would block half a country: left out


class Domains:
    """A set of domains as a table of 64-bit hashes: 13 million take 208 MB, which processes share by mapping a file."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = table  # uint64, zero in free slots

    @classmethod
    def of(cls, keys: np.ndarray) -> "Domains":
        """From hashes of domains (uint64, any order, repeats allowed); the same set gives the same bytes."""
        keys = _distinct(keys.copy())
        table = np.zeros(_SLOTS * len(keys) + 1, np.uint64)
        fill(keys, table)
        return cls(table)

    @classmethod
    def read(cls, path: Path) -> tuple["Domains", DomainList]:
        """From a list file, plain or .gz, or a UT1 folder (every file in it that is named `domains`).

        A line is a domain, or in hosts format an address and domains; `#` begins a comment. Streams: memory holds 8
        bytes a domain. Raises UserError where the list cannot be read.
        """
        parts, ignored = [np.zeros(0, np.uint64)], 0
        for file in _list_files(path):
            for block in _blocks(file):
                keys = np.empty(block.count(b"\n") + 1, np.uint64)
                odd = np.empty(2 * len(keys), np.int64)
                plain, strange = scan_lines(np.frombuffer(block, np.uint8), keys, odd)
                parts.append(keys[:plain].copy())
                lines = [_text(block[i:j], file) for i, j in odd[:strange].reshape(-1, 2).tolist()]
                named = [entries(line) for line in lines]
                parts.append(np.array([_key(name) for names in named for name in names], np.uint64))
                ignored += sum(
                    not names and bool(line.partition("#")[0].strip()) for line, names in zip(lines, named, strict=True)
                )
        keys = np.concatenate(parts)
        parts.clear()
        keys = _distinct(keys)
        listed = {}
        for key, name in _public_suffixes().items():
            place = int(np.searchsorted(keys, np.uint64(key)))
            if place < len(keys) and keys[place] == key:
                listed[place] = name
        keys = np.delete(keys, list(listed))
        return cls.of(keys), DomainList(len(keys), ignored, sorted(listed.values()))

    def match_batch(self, urls: Sequence[str]) -> list[str | None]:
        """For each URL the longest blocked domain that its host is or lies under, or None."""
        points, borders = flatten(urls)
        first, last = np.empty(len(urls), np.int64), np.empty(len(urls), np.int64)
        find_blocked(points, borders, self.table, first, last)
        domains: list[str | None] = [None] * len(urls)
        for i in np.flatnonzero(first >= 0).tolist():
            domains[i] = urls[i][first[i] - borders[i] : last[i] - borders[i]].lower()
        for i in np.flatnonzero(first == ODD).tolist():
            domains[i] = self._match_host(host_of(urls[i]))
        return domains

    def _match_host(self, host: str) -> str | None:
        return next((name for name in _over(host) if holds(self.table, _key(name))), None) if host else None

    def save(self, path: Path) -> None:
        """Write the table as .npy, atomically."""
        temporary = temporary_path(path)
        with temporary.open("wb") as out:
            np.save(out, self.table)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Domains":
        """Map a saved table into memory, read only."""
        return cls(np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)))


def _distinct(keys: np.ndarray) -> np.ndarray:
    """Sorted, each once; sorts in place, for at 13 million every copy counts."""
    keys.sort()
    return keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys


def entries(line: str) -> list[str]:
    """The domains that a line of a list names, canonical; none for a comment or a line that is no domain."""
    words = line.partition("#")[0].split()
    if len(words) > 1:
        words = words[1:] if _is_address(words[0]) else []  # hosts format; prose is no domain
    hosts = []
    for word in words:
        url = word if "://" in word else f"//{word.removeprefix('*.')}"
        if _is_address(word):
            url = f"//[{word}]" if ":" in word else url
        host, path = host_of(url), url.partition("//")[2].partition("/")[2]
        inner = host.strip("0123456789abcdefghijklmnopqrstuvwxyz-_.:")
        if "@" not in word and not path and not inner and ("." in host or ":" in host):
            hosts.append(host)
    return hosts


def host_of(url: str) -> str:
    """The host of a URL, canonical: lower case, Unicode as punycode, no outer dots. Empty where there is none."""
    try:
        host = unquote(urlsplit(url.replace("\\", "/")).hostname or "")
    except ValueError:  # e.g. a bracket where an address should be
        return ""
    if not host.isascii():
        # UTS 46 without its tables: compatibility form, lower case, the ideographic full stop as a dot.
        host = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", host).lower()).replace("。", ".")
        host = ".".join(_punycode(label) for label in host.split("."))
    return host.strip(".").lower()


def _punycode(label: str) -> str:
    return label if label.isascii() else "xn--" + label.encode("punycode", "replace").decode()


def _over(host: str) -> Iterator[str]:
    """The host and the domains that it lies under, the longest first; an address lies under none."""
    yield host
    while not _is_address(host) and "." in host:
        host = host.partition(".")[2]
        yield host


def _is_address(host: str) -> bool:
    if not host.strip("0123456789."):
        return True
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def _key(host: str) -> int:
    return int(host_key(flatten([host])[0]))


@functools.cache
def _public_suffixes() -> dict[int, str]:
    """Hash and name of registries' suffixes (com, co.uk), not of hosting companies' own (github.io): tld's list."""
    text = (importlib.resources.files("tld") / "res/effective_tld_names.dat.txt").read_text("utf-8")
    rules = (line.strip() for line in text.partition("===END ICANN DOMAINS===")[0].splitlines())
    names = [host_of(f"//{rule}") for rule in rules if rule and rule[0] not in "/*!"]
    return {_key(name): name for name in names}


def read_words(path: Path) -> list[str]:
    """Entries of a word list, one a line, `#` begins a comment line: a file, plain or .gz, or a folder of such files.

    Sorted and distinct. Raises UserError where it cannot be read.
    """
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    if not files:
        raise UserError(f"block list {path} is an empty folder; name a file")
    lines = (_text(line, file).strip() for file in files for block in _blocks(file) for line in block.split(b"\n"))
    return sorted({fold(line) for line in lines if line and not line.startswith("#")})


class Words:
    """Finds all blocked words in one pass. Where a word begins or ends inside a word of the text, it is no match."""

    def __init__(self, words: Iterable[str]) -> None:
        # Over bytes, each written as a character: the automaton searches a node's branches one by one, and thousands
        # of Chinese characters branch off its root. 15 times as fast; UTF-8 lets no word begin inside a character.
        self._automaton = ahocorasick.Automaton()
        for word in map(fold, words):
            encoded = _utf8(word)
            self._automaton.add_word(encoded.decode("latin-1"), (word, len(encoded)))
        if len(self._automaton):
            self._automaton.make_automaton()

    def matches(self, text: str) -> list[str]:
        """Blocked words in the order of their ends, each occurrence once, those within others too."""
        if not len(self._automaton):
            return []
        encoded = _utf8(fold(text))
        words = []
        for last, (word, size) in self._automaton.iter(encoded.decode("latin-1")):
            first = last + 1 - size
            before = encoded[max(0, first - 4) : first].decode("utf-8", "ignore")[-1:]
            after = encoded[last + 1 : last + 5].decode("utf-8", "ignore")[:1]
            if not (_joined(before, word[0]) or _joined(word[-1], after)):
                words.append(word)
        return words


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def fold(text: str) -> str:
    """Lower case, character for character: a place in the result is the same place in `text`."""
    return text.replace("İ", "i").lower().replace("ς", "σ")


def _joined(left: str, right: str) -> bool:
    """Whether two neighbouring characters (or none) belong to one word of a script with spaces between words."""
    return bool(left and right) and _in_word(left) and _in_word(right)


def _in_word(character: str) -> bool:
    if character < "\u0e00":
        return character.isalnum() or unicodedata.category(character)[0] == "M"
    # Thai to Khmer, kana and Han stand without spaces; Hangul and the rest do not.
    if character < "\u0f00" or "\u1000" <= character < "\u10a0" or "\u1780" <= character < "\u1800":
        return False
    if "\u2e80" <= character < "\ua000" or "\uf900" <= character < "\ufb00" or character >= "\U00020000":
        return False
    return character.isalnum() or unicodedata.category(character)[0] == "M"


def _list_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(p for p in path.rglob("*") if p.name in ("domains", "domains.gz") and p.is_file())
    if not files:
        raise UserError(f"block list {path} is a folder without any file named 'domains'; name a list file")
    return files


def _blocks(path: Path) -> Iterator[bytes]:
    """Whole lines of a file, a few MB at a time. Raises UserError where it cannot be read."""
    rest = b""
    try:
        with _open(path) as stream:
            while block := stream.read(_BLOCK):
                head, newline, tail = block.rpartition(b"\n")
                if newline:
                    yield rest + head + newline
                    rest = b""
                rest += tail
                if len(rest) > _BLOCK:
                    raise UserError(f"block list {path} has a line of more than {_BLOCK} bytes; is it a text file?")
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read block list {path}: {reason}; correct its path") from None
    if rest:
        yield rest


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _text(line: bytes, path: Path) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"block list {path} is not UTF-8 (byte {error.start} of a line); save it as UTF-8") from None
