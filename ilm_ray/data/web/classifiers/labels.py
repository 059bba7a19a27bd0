"""Labelled texts from files, and their split: training, threshold, held out."""

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from ilm_ray.base.errors import UserError
from ilm_ray.data.documents.language import tokens

LONGEST_LINE = 1 << 25  # characters
_PARTS = 10  # by hash of the text: 0 and 1 are held out, 2 sets the threshold, the rest trains


@dataclass(frozen=True)
class Labels:
    """Texts and whether each is good."""

    texts: list[str]
    good: np.ndarray  # bool
    languages: list[str]

    def part(self, mask: np.ndarray) -> "Labels":
        """Those where `mask` (bool [n]) is true."""
        chosen = np.flatnonzero(mask)
        return Labels([self.texts[i] for i in chosen], self.good[mask], [self.languages[i] for i in chosen])

    def __add__(self, other: "Labels") -> "Labels":
        good = np.concatenate([self.good, other.good])
        return Labels(self.texts + other.texts, good, self.languages + other.languages)


@dataclass(frozen=True)
class Columns:
    """The columns of a file. `good` names the label values of good texts; None: 1 is good, 0 is bad."""

    text: str = "text"
    label: str = "label"
    language: str = "language"  # may be missing
    good: frozenset[str] | None = None


@dataclass(frozen=True)
class Split:
    """Three parts that share no text."""

    training: Labels
    threshold: Labels  # sets the threshold and what a score of one half means
    held_out: Labels  # measures


def read_labels(path: Path, columns: Columns | None = None) -> Labels:
    """Rows of .jsonl, .csv or .tsv (no quoting), each plain, .gz or .zst.

    Raises UserError where the file cannot be read or a row is no labelled text.
    """
    want, texts, good, languages = columns or Columns(), [], [], []
    try:
        for place, row in _rows(path):
            text, label = row.get(want.text), row.get(want.label)
            flag = _flag(label, want.good)
            if not isinstance(text, str) or flag is None:
                problem = f"has {sorted(map(str, row))[:8]} and label {label!r}"[:200]
                wanted = f"a text in '{want.text}' and " + (
                    f"0 or 1 in '{want.label}'" if want.good is None else f"a value in '{want.label}'"
                )
                raise UserError(f"{path} {place}: want {wanted}; it {problem}; correct the file or name its columns")
            texts.append(text)
            good.append(flag)
            languages.append(str(row.get(want.language) or "unknown"))
    except (OSError, EOFError, ValueError, RecursionError, csv.Error, zlib.error, zstandard.ZstdError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read labels {path}: {reason}; correct the file or its path") from None
    return Labels(texts, np.array(good, bool), languages)


def split(labels: Labels, held_out: Labels | None = None) -> Split:
    """Split by hash of the tokens: copies of a text lie in one part. With `held_out` given nothing else is held out,
    and texts that it shares with `labels` are not trained on.

    Raises UserError where a part lacks good or bad texts.
    """
    part = np.array([_part(text) for text in labels.texts], np.int64)
    if held_out is not None:
        measured = {_digest(text) for text in held_out.texts}
        part[[_digest(text) in measured for text in labels.texts]] = -1
        part[(part == 0) | (part == 1)] = _PARTS
    made = Split(labels.part(part > 2), labels.part(part == 2), held_out or labels.part((part == 0) | (part == 1)))
    for name, subset in vars(made).items():
        if len(set(subset.good.tolist())) != 2:
            raise UserError(
                f"the labels have no {'good' if not subset.good.any() else 'bad'} text for the part '{name}' of their "
                f"split ({len(labels.texts)} rows in all); add some, fifty rows or more"
            )
    return made


def _flag(label: Any, good: frozenset[str] | None) -> bool | None:
    if label is None:
        return None
    if good is not None:
        return str(label) in good
    return bool(int(label)) if label in (0, 1, "0", "1") else None


def _digest(text: str) -> bytes:
    return hashlib.blake2b((" ".join(tokens(text)) or text).encode("utf-8", "replace"), digest_size=8).digest()


def _part(text: str) -> int:
    return int.from_bytes(_digest(text), "little") % _PARTS


def _bounded(lines: io.TextIOWrapper) -> Iterator[str]:
    """Lines of a file that may be packed: a kilobyte can unpack to a line that fills the memory."""
    while line := lines.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise ValueError(f"a line has more than {LONGEST_LINE} characters")
        yield line


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) for each row."""
    kinds = [suffix.lower() for suffix in path.suffixes]
    packed = kinds.pop() if kinds and kinds[-1] in (".gz", ".zst") else ""
    kind = kinds[-1] if kinds else ""
    if kind not in (".jsonl", ".csv", ".tsv"):
        raise UserError(f"labels {path}: want .jsonl, .csv or .tsv (with .gz or .zst behind it); rename or convert it")
    with path.open("rb") as raw:
        stream: Any = raw
        if packed == ".gz":
            stream = gzip.GzipFile(fileobj=raw)
        elif packed:
            stream = zstandard.ZstdDecompressor().stream_reader(raw)
        lines = _bounded(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""))
        if kind == ".jsonl":
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    row = json.loads(line)
                    yield f"line {number}", row if isinstance(row, dict) else {}
        else:
            dialect: dict[str, Any] = {} if kind == ".csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
            reader = csv.DictReader(lines, strict=True, **dialect)
            for row in reader:
                yield f"line {reader.line_num}", row
