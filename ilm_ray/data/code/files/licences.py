"""Which licence a file is under: its own SPDX header, else the nearest licence text at or above its folder."""

import posixpath
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from identify import identify

UNKNOWN = "unknown"
_SPDX = re.compile(r"SPDX-License-Identifier:\s*([A-Za-z0-9.+()-]+(?:\s+(?:AND|OR|WITH)\s+[A-Za-z0-9.+()-]+)*)")
_HEAD = 4096
_MAX_TEXT = 64_000  # no licence that identify knows is longer, and its edit distance is quadratic


def header_licence(text: str) -> str | None:
    """The SPDX expression that a file names for itself near its top."""
    match = _SPDX.search(text[:_HEAD])
    return match[1] if match else None


def text_licence(text: str) -> str:
    """SPDX identifier of a licence text, up to 5% edited; `unknown` for any other."""
    if len(text) > _MAX_TEXT:
        return UNKNOWN
    with tempfile.TemporaryDirectory() as folder:  # identify reads files
        path = Path(folder, "licence")
        path.write_text(text, encoding="utf-8", errors="replace")
        return identify.license_id(str(path)) or UNKNOWN


def folder_licence(path: str, texts: Mapping[str, str]) -> str:
    """The licence of the nearest folder at or above `path`; `texts`: folder ("" is the root) -> SPDX identifier."""
    folder = posixpath.dirname(path)
    while folder not in texts and folder:
        folder = posixpath.dirname(folder)
    return texts.get(folder, UNKNOWN)
