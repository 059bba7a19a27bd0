"""Which files a run reads, their frozen order, and the ids of the documents in them (smaller id: the copy to keep).

An id is rank (15 bits), file (20), row (28). The rank comes from the dump's name alone and the file's number counts
within its dump, so a document has the same id in every run, today or in a year.
"""

import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import fsspec

from ilm_ray.base.errors import UserError
from ilm_ray.base.places import located
from ilm_ray.base.tables import TRAIN, dataset_files
from ilm_ray.config.data import TextConfig
from ilm_ray.config.named_data import not_set

FILE_BITS, ROW_BITS = 20, 28
_DUMP = re.compile(r"CC-MAIN-(\d{4})-(\d\d)")
# Ranks: first what is text already (it needs no extraction, so its copy is the cleaner one), then web dumps from the
# newest to the oldest, then dumps whose name has no date, by name.
_NAMED, _DATED, _UNDATED = 0, 4096, 20_000
_RANKS = 1 << 15  # ids stay below 2^63, so that signed integers hold them too
_FIRST_YEAR, _LAST_YEAR, _WEEKS = 1996, 2200, 54


# Files with one document each are read together: a task, its outputs and its statistics cost more than a short text.
SMALL_BYTES, GROUP_BYTES, GROUP_FILES = 1 << 20, 4 << 20, 1 << 12


class _File(NamedTuple):
    path: str  # what fsspec opens
    size: int | None  # bytes; None where the storage does not say


@dataclass(frozen=True)
class Source:
    """One input file, or several small texts. `index` is its place in the run's frozen order, `number` in its dump."""

    index: int
    rank: int  # of its dump; 0 is kept first
    number: int
    dump: str
    path: str  # what fsspec opens
    source: str = ""  # name in `text.sources`; "" is the web
    text_field: str = "text"  # of a JSON Lines source
    more: str = ""  # JSON list of the small files that are read behind `path`; row n is then the n-th of them all

    def files(self) -> list["Source"]:
        """The source's files, each as a source of its own."""
        return [replace(self, path=path, more="") for path in (self.path, *json.loads(self.more or "[]"))]

    def place(self, document: int) -> tuple[str, int]:
        """(file, row in it) of the document with this id."""
        row = document & ((1 << ROW_BITS) - 1)
        return (self.files()[row].path, 0) if self.more else (self.path, row)

    def document_id(self, row: int) -> int:
        """64 bits: dump rank, file, row. The smaller of two ids is the newer dump, so it is the copy to keep."""
        if row >= 1 << ROW_BITS:
            raise UserError(f"{self.path} holds more than {1 << ROW_BITS} pages; split it into smaller files")
        return self.rank << (FILE_BITS + ROW_BITS) | self.number << ROW_BITS | row

    @property
    def key(self) -> int:
        """The upper bits that all ids of this file share: `document_id >> ROW_BITS`."""
        return self.rank << FILE_BITS | self.number


def find_sources(pattern: str | None, config: TextConfig | None = None) -> list[Source]:
    """The files that `pattern` matches and those of `config.sources`, each sorted by path.

    Raises UserError where neither is given, a pattern matches nothing, two dumps cannot be told apart, or a storage
    cannot be used.
    """
    named = config.sources if config else {}
    files: list[tuple[str, list[str]]] = []
    if pattern:
        found = _glob(pattern, "input", "WARC files, e.g. 'crawl/*/*.warc.gz'")
        files += [("", [file.path]) for file in found]
    elif not named:
        raise not_set("input")
    for name, source in sorted(named.items()):
        found = _glob(source.input, f"text.sources.{name}.input", ".jsonl, .parquet or .txt files")
        files += [(name, group) for group in _grouped(found)]
    dumps = [name or _dump_of(group[0]) for name, group in files]
    ranks = _ranks(set(zip((name for name, _ in files), dumps, strict=True)))
    numbers: dict[str, int] = {}
    sources = []
    for index, ((name, (path, *others)), dump) in enumerate(zip(files, dumps, strict=True)):
        number = numbers[dump] = numbers.get(dump, -1) + 1
        if number >= 1 << FILE_BITS:
            raise UserError(f"dump {dump} has more than {1 << FILE_BITS} files; give them in several runs or join them")
        field = named[name].text_field if name else "text"
        more = json.dumps(others) if others else ""
        sources.append(Source(index, ranks[dump], number, dump, path, name, field, more))
    return sources


def is_dated(dump: str) -> bool:
    """Whether the dump's name shows its age, so that its ids are comparable with those of other runs."""
    return _DUMP.fullmatch(dump) is not None


def jsonable(source: Source) -> dict[str, Any]:
    """The source as a row that Ray Data carries."""
    return asdict(source)


def one_line(error: Exception) -> str:
    """The message of an error, without line breaks."""
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def _dataset(folder: Path, setting: str) -> list[_File]:
    """The files of a local data set; where they are split, those to train on."""
    try:
        files = dataset_files(folder)
    except (ValueError, KeyError) as error:
        raise UserError(f"{setting}={folder} is no data set: {error}; give its folder as it was saved") from None
    training = [path for split, path in files if split == TRAIN]
    return [_File(f"file://{path}", path.stat().st_size) for path in training or [path for _, path in files]]


def _glob(pattern: str, setting: str, wanted: str) -> list[_File]:
    local = Path(located(pattern))
    if "://" not in pattern and local.is_dir() and (files := _dataset(local, setting)):
        return files
    try:
        filesystem, inner = fsspec.url_to_fs(located(pattern))
        found = filesystem.glob(inner, detail=True)
    except Exception as error:  # each driver has errors of its own: not installed, no credentials, an unknown scheme
        raise UserError(
            f"{setting}={pattern} cannot be listed: {one_line(error)}; give a glob of files in a folder or a storage "
            "whose fsspec driver is installed"
        ) from None
    files = [
        _File(filesystem.unstrip_protocol(path), about.get("size"))
        for path, about in sorted(found.items())
        if about.get("type") != "directory"
    ]
    if not files:
        raise UserError(f"{setting}={pattern} matches no file; give a glob of {wanted}")
    return files


def _grouped(files: Iterable[_File]) -> Iterator[list[str]]:
    """The files in their order, small texts that follow each other together."""
    group, size = list[str](), 0
    for file in files:
        small = file.path.endswith(".txt") and file.size is not None and file.size <= SMALL_BYTES
        if group and (not small or size + (file.size or 0) > GROUP_BYTES or len(group) == GROUP_FILES):
            yield group
            group, size = [], 0
        if small:
            group.append(file.path)
            size += file.size or 0
        else:
            yield [file.path]
    if group:
        yield group


def _ranks(dumps: set[tuple[str, str]]) -> dict[str, int]:
    """Rank of each (source, dump)."""
    undated = sorted((dump for source, dump in dumps if not source and not is_dated(dump)), reverse=True)
    ranks: dict[str, int] = {}
    for source, dump in sorted(dumps):
        if source:
            rank = _NAMED + zlib.crc32(source.encode()) % _DATED
        elif is_dated(dump):
            rank = _dated_rank(dump)
        else:
            rank = _UNDATED + undated.index(dump)
        if dump in ranks or rank in ranks.values() or rank >= _RANKS:
            raise UserError(
                f"dump '{dump}' cannot be told apart from another one by its name; rename its folder or source"
            )
        ranks[dump] = rank
    return ranks


def _dated_rank(dump: str) -> int:
    match = _DUMP.fullmatch(dump)
    assert match is not None
    year, week = int(match[1]), int(match[2])
    if not (_FIRST_YEAR <= year < _LAST_YEAR and week < _WEEKS):
        raise UserError(f"{dump} is no week of a year between {_FIRST_YEAR} and {_LAST_YEAR}; rename its folder")
    return _DATED + (_LAST_YEAR - year) * _WEEKS - week


def _dump_of(path: str) -> str:
    """The innermost folder named like a crawl (`CC-MAIN-2024-10/segments/<id>/warc/x.warc.gz`), else the parent."""
    folders = path.split("/")[:-1]
    return next((name for name in reversed(folders) if _DUMP.fullmatch(name)), folders[-1] if folders else "")
