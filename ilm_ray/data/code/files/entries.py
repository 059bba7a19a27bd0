"""Files of a tree before they are read."""

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple


class Entry(NamedTuple):
    """A file. `member` is its name in its tree: a relative path, an archive's member, a git object."""

    path: str  # relative to the tree's root, with forward slashes
    size: int  # bytes, as the tree says; an archive may lie
    member: str


class Listing(NamedTuple):
    """The files of a tree, and how many were left out for which reason."""

    entries: list[Entry]
    left_out: Counter[str]


@dataclass(frozen=True)
class ReadLimits:
    """Limits on an archive: it comes from strangers, and a kilobyte can unpack to a petabyte."""

    file_bytes: int
    archive_bytes: int  # unpacked
    archive_members: int
