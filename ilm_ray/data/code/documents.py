"""A repository as markdown documents that know where each file lies in them (report section 3.2)."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ilm_ray.data.documents.document import Document

CountTokens = Callable[[str], int]


class Span(NamedTuple):
    """The section of a file in a document: characters `start` to `end` of its text, the section's heading included."""

    path: str
    start: int
    end: int


class JoinedFiles(NamedTuple):
    """Text of at most the token limit, or of one longer file, and its parts, in order."""

    text: str
    spans: list[Span]


def join_sections(sections: Iterable[tuple[str, str]], count: CountTokens, max_tokens: int) -> Iterator[JoinedFiles]:
    """(path, section) in order -> documents, split between files alone.

    A document takes sections as long as their tokens, counted one by one, stay within `max_tokens`. Counted as a whole
    a document may have a token more or less at each border. A single longer file stays whole: it is for the packing of
    training sequences to cut it and to keep the rest.
    """
    parts, spans, tokens, size = list[str](), list[Span](), 0, 0
    for path, section in sections:
        more = count(section)
        if parts and tokens + more > max_tokens:
            yield JoinedFiles("\n".join(parts), spans)
            parts, spans, tokens, size = [], [], 0, 0
        parts.append(section)
        spans.append(Span(path, size, size + len(section)))
        tokens += more
        size += len(section) + 1
    if parts:
        yield JoinedFiles("\n".join(parts), spans)


def repository_documents(name: str, joined: Iterable[JoinedFiles]) -> Iterator[Document]:
    """The documents of a repository with ids of 63 bits and the columns `repository` and `files`.

    `files` lists {path, start, end}, offsets in characters of the text.
    """
    for part, files in enumerate(joined):
        url = f"{name}#{part}"
        number = int.from_bytes(hashlib.sha256(url.encode("utf-8", "replace")).digest()[:8]) >> 1
        columns = {"repository": name, "files": [span._asdict() for span in files.spans]}
        document = Document(number, url, "code", language="code", columns=columns)
        document.set_text(files.text)
        yield document
