"""A document: the row that every data stage reads and writes, and the verdict by which it falls."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ilm_ray.base.jsonl import JsonObject, read_jsonl, utf8_bytes
from ilm_ray.data.documents.language import UNKNOWN

IDS = ("id", "duplicate_of")  # numbers here, strings at rest: above 2^53 jq and browsers would round them


@dataclass(frozen=True)
class Verdict:
    """The reason why a document falls."""

    rule: str
    value: float | str
    threshold: float | None


@dataclass(slots=True)
class Document:
    """One text and its columns. On disk it is a flat row of JSON Lines, each score a column of its own.

    `source` is a name in `text.sources`, "" the web. `chars`, `bytes` (of UTF-8) and `line_num` are those of `text`; so
    is `token_num`, in tokens of cl100k, of a web document that all steps left. `columns`: scores by rule, and other
    columns of a stage. One that falls has `drop_step`, `drop_rule`, `drop_value` (the value that the rule saw) and
    maybe `threshold`.
    """

    id: int
    url: str
    dump: str
    source: str = ""
    date: str = ""
    title: str = ""
    charset: str | None = None
    language: str = UNKNOWN
    language_score: float = 0.0
    text: str = ""
    chars: int = 0
    bytes: int = 0
    line_num: int = 0
    token_num: int | None = None
    duplicate_of: int | None = None
    similarity: float | None = None
    drop_step: str | None = None
    drop_rule: str | None = None
    drop_value: float | str | None = None
    threshold: float | None = None
    columns: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_row(cls, row: JsonObject) -> "Document":
        """The inverse of `row`. Raises KeyError, TypeError or ValueError where `row` is no document."""
        known = {name: value for name, value in row.items() if name in _NAMES}
        known |= {name: int(row[name]) for name in IDS if name in row}
        document = cls(**known, columns={name: value for name, value in row.items() if name not in _NAMES})
        if "line_num" not in row:  # written by somebody else
            document.set_text(document.text)
        return document

    def row(self) -> JsonObject:
        """The document as it lies at rest."""
        row = {name: value for name in _NAMES if (value := getattr(self, name)) is not None}
        return row | self.columns | {name: str(row[name]) for name in IDS if name in row}

    def column(self, name: str) -> Any:
        """A field or a score by its name at rest; None where the document has none."""
        return getattr(self, name) if name in _NAMES else self.columns.get(name)

    def set_text(self, text: str) -> None:
        """Replace the text, and its counts with it."""
        self.text, self.chars, self.bytes = text, len(text), utf8_bytes(text)
        self.line_num = text.count("\n") + 1 if text else 0

    def judge(self, verdict: Verdict | None) -> None:
        """Take down why it falls, if it does."""
        if verdict is not None:
            self.drop_rule, self.drop_value, self.threshold = verdict.rule, verdict.value, verdict.threshold


_NAMES = tuple(each.name for each in fields(Document) if each.name != "columns")


def read_documents(path: Path) -> Iterator[Document]:
    """Documents of a JSON Lines file. Raises OSError, or ValueError where it is damaged or holds something else."""
    for row in read_jsonl(path):
        try:
            document = Document.of_row(row)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} holds a row that is no document: {error}") from None
        yield document


def judged(row: JsonObject, verdict: Verdict | None) -> JsonObject:
    """`row`, with the reason why it falls if it does."""
    if verdict is None:
        return row
    return row | {"drop_rule": verdict.rule, "drop_value": verdict.value, "threshold": verdict.threshold}
