"""A repository as markdown documents that know where each file lies in them (report section 3.2)."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

CountTokens = Callable[[str], int]


class Span(NamedTuple):
    """The section of a file in a document: characters `start` to `end` of its text, the section's heading included."""

    path: str
    start: int
    end: int


class Document(NamedTuple):
    """Text of at most the token limit, or of one longer file, and what it consists of, in order."""

    text: str
    spans: list[Span]


def join_sections(sections: Iterable[tuple[str, str]], count: CountTokens, max_tokens: int) -> Iterator[Document]:
    """(path, section) in order -> documents, split between files alone.

    A document takes sections as long as their tokens, counted one by one, stay within `max_tokens`. Counted as a whole
    a document may have a token more or less at each border. A single longer file stays whole: it is for the packing of
    training sequences to cut it and to keep the rest.
    """
    parts, spans, tokens, size = list[str](), list[Span](), 0, 0
    for path, section in sections:
        more = count(section)
        if parts and tokens + more > max_tokens:
            yield Document("\n".join(parts), spans)
            parts, spans, tokens, size = [], [], 0, 0
        parts.append(section)
        spans.append(Span(path, size, size + len(section)))
        tokens += more
        size += len(section) + 1
    if parts:
        yield Document("\n".join(parts), spans)


def repository_rows(name: str, documents: Iterable[Document]) -> Iterator[dict[str, Any]]:
    """The documents of a repository as rows: id (63 bits), url, dump, language, text, repository, files.

    `files` lists {path, start, end}, offsets in characters of `text`.
    """
    for part, document in enumerate(documents):
        url = f"{name}#{part}"
        number = int.from_bytes(hashlib.sha256(url.encode("utf-8", "replace")).digest()[:8]) >> 1
        files = [span._asdict() for span in document.spans]
        row = {"id": number, "url": url, "dump": "code", "language": "code", "text": document.text}
        yield {**row, "repository": name, "files": files}
