"""Benchmark files -> items: JSON Lines, JSON and CSV, plain or gzip.

A form says by its field names which of them make up an item. A reading passage beside the question is no part of it: it
is most often a public text of its own (GPT-3, appendix C, found QuAC's and SQuAD's sources, not their questions).
"""

import csv
import glob
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ilm_ray.base.errors import UserError


class Form(NamedTuple):
    """Fields of a benchmark's rows, all of which a row must have. `names`: the first one present numbers the item."""

    question: tuple[str, ...]
    choices: tuple[str, ...] = ()
    answer: tuple[str, ...] = ()
    solution: tuple[str, ...] = ()  # an answer in sentences, sought by itself too
    names: tuple[str, ...] = ()


# The first form whose fields a row has is the one it is read by; a benchmark with other fields is one more line here.
FORMS = (
    Form(("question",), choices=("options",)),  # AGIEval
    Form(("question",), choices=("choices",)),  # MMLU as Hugging Face has it
    Form(("question",), choices=("choice",)),  # C3
    Form(("Question",), choices=("A", "B", "C", "D")),  # CMMLU
    Form(("question",), choices=("A", "B", "C", "D")),  # C-Eval
    Form(("question",), solution=("answer",)),  # GSM8K, NQ-open
    Form(("Question",), answer=("Answer",), names=("id",)),  # TheoremQA
    Form(("prompt",), answer=("canonical_solution",), names=("task_id",)),  # HumanEval, HumanEval-X
    Form(("prompt",), answer=("code",), names=("task_id",)),  # MBPP
    Form(("input",), answer=("target",)),  # BIG-Bench Hard
    Form(("instructions",), solution=("outputs",)),  # L-Eval: lists, an item each
    Form(("turns",), names=("question_id",)),  # MT-Bench: the turns of a dialogue
    Form(("context_options", "continuation")),  # WinoGrande
    Form(("context",), answer=("answer",)),  # TriviaQA
)
# MMLU's files have no header: question, choices, the letter of the right one.
_LETTER = re.compile(r"[A-Z]")
_FEWEST_COLUMNS = 4
_PARALLEL = ("instructions", "outputs")
_MOST_BYTES = 1 << 30  # of a file, unpacked: a kilobyte can unpack to what fills the memory
_PIECE_BYTES = 1 << 20
_CALCULATION = re.compile(r"<<[^<>]*>>|#### ")  # GSM8K's annotations


class Item(NamedTuple):
    """A test item. "" stands for a part that it has not."""

    benchmark: str  # the file, below the folder that all files have in common
    name: str
    question: str
    choices: str
    answer: str
    solution: str

    @property
    def text(self) -> str:
        """The item for people."""
        return "\n".join(filter(None, (self.question, self.choices, self.answer, self.solution)))


def find_benchmarks(patterns: Iterable[str]) -> list[Path]:
    """The files that the globs match, sorted. Raises UserError where one matches none."""
    files = set[Path]()
    for pattern in patterns:
        names = glob.glob(pattern, recursive=True)  # noqa: PTH207  # a Path's own glob refuses absolute patterns
        paths = {path for name in names if (path := Path(name)).is_file()}
        if not paths:
            raise UserError(
                f"decontamination.benchmarks: {pattern} matches no file; give globs of benchmark files "
                "(.jsonl, .json, .csv, plain or .gz)"
            )
        files |= {path.absolute() for path in paths}
    return sorted(files)


def read_benchmarks(paths: list[Path]) -> list[Item]:
    """Items of all files, in order. Raises UserError for a file that cannot be read or whose form is unknown."""
    names = _short_names(paths)
    return [item for path in paths for item in read_items(path, names[path])]


def read_items(path: Path, benchmark: str) -> list[Item]:
    """Items of one file."""
    items = []
    for number, row in enumerate(_rows(path)):
        form = next((form for form in FORMS if _fits(row, form)), None)
        if form is None:
            raise _unknown(path, f"row {number + 1} has the fields {', '.join(map(str, row))[:200]}")
        name = next((str(row[field]) for field in form.names if row.get(field) is not None), str(number))
        for place, single in enumerate(_singles(row)):
            parts = (_text(single, f) for f in (form.question, form.choices, form.answer, form.solution))
            items.append(Item(benchmark, name if place == 0 else f"{name}.{place}", *parts))
    if not items:
        raise _unknown(path, "no row is an item")
    return items


def _short_names(paths: list[Path]) -> dict[Path, str]:
    """Each file below the innermost folder that holds them all."""
    parents = [path.parent.parts for path in paths]
    common = 0
    while parents and all(len(parts) > common and parts[common] == parents[0][common] for parts in parents):
        common += 1
    return {path: "/".join(path.parts[common:]) for path in paths}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = _content(path).decode("utf-8-sig")
        kind = Path(path.name.removesuffix(".gz")).suffix
        if kind == ".jsonl":
            for line in text.split("\n"):  # a text may hold other line breaks, such as U+2028
                if line.strip():
                    yield from _objects(json.loads(line), path)
        elif kind == ".json":
            yield from _objects(json.loads(text), path)
        elif kind == ".csv":
            yield from _csv_rows(text, path)
        else:
            raise _unknown(path, f"its name ends in '{kind}'")
    except (OSError, EOFError, zlib.error, ValueError, csv.Error, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"decontamination.benchmarks: {path} cannot be read: {reason[:200]}; mend or leave it out"
        ) from None


def _content(path: Path) -> bytearray:
    """The bytes of a file, plain or gzip. Raises ValueError where they are more than _MOST_BYTES."""
    content = bytearray()
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):  # one read of all that is allowed would take that much beforehand
            content += piece
            if len(content) > _MOST_BYTES:
                raise ValueError(f"it holds more than {_MOST_BYTES} bytes")
    return content


def _objects(value: Any, path: Path) -> Iterator[dict[str, Any]]:
    """The rows in a JSON value: objects of a known form, or, where it has none, the items of lists within it."""
    if isinstance(value, dict):
        inner = [list_ for list_ in value.values() if isinstance(list_, list) and list_ and isinstance(list_[0], dict)]
        if any(_fits(value, form) for form in FORMS) or not inner:
            yield value
        else:
            for list_ in inner:
                yield from _objects(list_, path)
    elif isinstance(value, list):
        for each in value:
            yield from _objects(each, path)


def _csv_rows(text: str, path: Path) -> Iterator[dict[str, Any]]:
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    if any(_fits(dict.fromkeys(rows[0], "") if rows else {}, form) for form in FORMS):
        yield from (dict(zip(rows[0], row, strict=False)) for row in rows[1:])
        return
    for number, row in enumerate(rows, 1):
        if len(row) < _FEWEST_COLUMNS or not _LETTER.fullmatch(row[-1].strip()):
            raise _unknown(
                path, f"row {number} is no question with choices and a letter, and row 1 names no known fields"
            )
        yield {"question": row[0], "choices": row[1:-1]}


def _fits(row: dict[str, Any], form: Form) -> bool:
    return all(field in row for field in (*form.question, *form.choices, *form.answer, *form.solution))


def _singles(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row that asks several questions, one by one."""
    if all(isinstance(row.get(field), list) for field in _PARALLEL):
        for values in zip(*(row[field] for field in _PARALLEL), strict=False):
            yield row | dict(zip(_PARALLEL, values, strict=True))
    else:
        yield row


def _text(row: dict[str, Any], fields: tuple[str, ...]) -> str:
    return _CALCULATION.sub("", "\n".join(filter(None, (_flat(row.get(field)) for field in fields))))


def _flat(value: Any) -> str:
    if isinstance(value, dict):  # choices by their labels, or ARC's lists of texts and labels
        value = list(value.values())
    if isinstance(value, list):
        return "\n".join(_flat(each) for each in value)
    return "" if value is None else str(value)


def _unknown(path: Path, reason: str) -> UserError:
    return UserError(
        f"decontamination.benchmarks: the form of {path} is unknown ({reason}); leave it out of the globs, or add its "
        "fields to FORMS in ilm_ray/data/decontamination/items.py"
    )
