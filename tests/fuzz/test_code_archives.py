"""Archives of source code: what is listed stays inside, within the limits, and comes out as it was put in."""

import gzip
import io
import stat
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from hypothesis import example, given
from hypothesis import strategies as st

from ilm_ray.config.data import CodeConfig
from ilm_ray.data.code.files.entries import ReadLimits
from ilm_ray.data.code.files.trees import find_trees, list_tree, read_tree
from tests.fuzz.limits import few, refusals
from tests.fuzz.made import damaged, texts

LIMITS = ReadLimits(file_bytes=1000, archive_bytes=1 << 20, archive_members=20)
NAMES = st.one_of(
    texts, st.sampled_from(["a.py", "p/a.py", "./a.py", "p//a.py", "/a.py", "p/../../a.py", "p/", "con:", "a\\b.py"])
)
# name, content, what kind of member it says that it is
MEMBERS = st.lists(st.tuples(NAMES, st.binary(max_size=1500), st.sampled_from("ffflhdb")), max_size=6)
KINDS = {
    "f": (tarfile.REGTYPE, stat.S_IFREG), "l": (tarfile.SYMTYPE, stat.S_IFLNK), "h": (tarfile.LNKTYPE, 0),
    "d": (tarfile.DIRTYPE, stat.S_IFDIR), "b": (tarfile.BLKTYPE, stat.S_IFBLK),
}  # fmt: skip


def tar(members: list[tuple[str, bytes, str]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content, kind in members:
            info = tarfile.TarInfo(name.encode("utf-8", "replace").decode())
            info.type, info.linkname = KINDS[kind][0], "/etc/passwd"
            info.size = len(content) if kind == "f" else 0
            archive.addfile(info, io.BytesIO(content) if kind == "f" else None)
    return out.getvalue()


def zipped(members: list[tuple[str, bytes, str]]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, kind in members:
            info = zipfile.ZipInfo(name.encode("utf-8", "replace").decode() or f"x{len(archive.namelist())}")
            info.external_attr = (KINDS[kind][1] | 0o644) << 16
            archive.writestr(info, content if kind == "f" else b"")
    return out.getvalue()


def zeros_gzipped(size: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()


def contents(data: bytes, name: str) -> dict[str, bytes]:
    """All that is read of an archive; it lies alone in a folder, and nothing else may come to lie there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        files: dict[str, bytes] = {}
        try:
            (tree,) = find_trees(CodeConfig(source=str(path))).trees
            entries = list_tree(tree, LIMITS).entries
            assert len(entries) <= LIMITS.archive_members
            for entry, content in read_tree(tree, entries, LIMITS):
                assert len(content) <= LIMITS.file_bytes + 1
                files[entry.path] = content
        finally:
            assert [p.name for p in Path(folder).rglob("*")] == [name]
    for inside in files:
        parts = PurePosixPath(inside).parts
        assert parts and ".." not in parts and not inside.startswith("/") and "\\" not in inside and "\0" not in inside
        inside.encode()
    return files


@given(MEMBERS)
@few(15)
def test_names_never_lead_out_and_regular_files_come_back(members: list[tuple[str, bytes, str]]) -> None:
    for name, data in (("t.tar", tar(members)), ("t.zip", zipped(members))):
        with refusals():
            files = contents(data, name)
            regular = {content[: LIMITS.file_bytes + 1] for _, content, kind in members if kind == "f"}
            regular |= {b""}  # what only says that it is a folder or a link may be read as an empty file
            assert set(files.values()) <= regular


GOOD = [("p/a.py", b"import b\n" * 20, "f"), ("p/b.py", b"x = 1\n", "f"), ("p/l", b"", "l")]


@given(st.one_of(damaged([tar(GOOD), gzip.compress(tar(GOOD), mtime=0)]), st.binary(max_size=600)))
@example(zeros_gzipped(1 << 28))
@few(25)
def test_any_bytes_are_a_tar_or_are_refused(data: bytes) -> None:
    with refusals():
        contents(data, "t.tar.gz")


@given(st.one_of(damaged([zipped(GOOD)]), st.binary(max_size=200)))
@few(25)
def test_any_bytes_are_a_zip_or_are_refused(data: bytes) -> None:
    with refusals():
        contents(data, "t.zip")
