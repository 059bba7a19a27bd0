"""A repository as markdown documents (report section 3.2)."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any


def split_sections(sections: Iterable[tuple[str, str]], max_chars: int) -> Iterator[tuple[list[str], str]]:
    """(path, section) in order -> (paths, document) of at most `max_chars`; a single longer file stays whole."""
    paths, parts, size = list[str](), list[str](), 0
    for path, section in sections:
        if parts and size + len(section) > max_chars:
            yield paths, "\n".join(parts)
            paths, parts, size = [], [], 0
        paths.append(path)
        parts.append(section)
        size += len(section) + 1
    if parts:
        yield paths, "\n".join(parts)


def repository_rows(name: str, sections: Iterable[tuple[str, str]], max_chars: int) -> Iterator[dict[str, Any]]:
    """The documents of a repository as rows: id (63 bits), url, dump, language, text, files."""
    for part, (paths, text) in enumerate(split_sections(sections, max_chars)):
        url = f"{name}#{part}"
        number = int.from_bytes(hashlib.sha256(url.encode("utf-8", "replace")).digest()[:8]) >> 1
        yield {"id": number, "url": url, "dump": "code", "language": "code", "text": text, "files": paths}
