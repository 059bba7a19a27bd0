"""What a run reads: folders, archives, git repositories; hostile and broken ones; which files are chosen."""

import gzip
import io
import os
import random
import shutil
import subprocess
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.config.data import CodeConfig
from ilm_ray.data.code.files.entries import Entry, ReadLimits
from ilm_ray.data.code.files.selection import jsonable, part_of, select, tree_fingerprints
from ilm_ray.data.code.files.trees import find_trees, list_tree, read_tree

_LIMITS = ReadLimits(file_bytes=1000, archive_bytes=1 << 20, archive_members=50)
_FILES = {"README.md": b"# hello\n", "src/a.py": b"import b\n", "src/deep/b.c": b"int x;\n", "caf\u00e9.py": b"y = 1\n"}


def _folder(root: Path) -> Path:
    for name, content in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def _git(root: Path, *arguments: str) -> None:
    about = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, env=os.environ | about)


def _repository(root: Path) -> Path:
    _folder(root)
    (root / "link.py").symlink_to("/etc/passwd")
    _git(root, "init", "-q")
    _git(root, "add", ".")
    _git(root, "commit", "-qm", "x")
    return root


def _tar(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def _contents(source: Path, limits: ReadLimits = _LIMITS) -> dict[str, bytes]:
    (tree,) = find_trees(CodeConfig(source=str(source))).trees
    entries = list_tree(tree, limits).entries
    random.Random(0).shuffle(entries)
    return {entry.path: content for entry, content in read_tree(tree, entries, limits)}


@pytest.mark.process
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_every_kind_of_tree_gives_the_same_files(tmp_path: Path, mode: str) -> None:
    tar = _tar(tmp_path / "t-1.0.tar.x", {f"t-1.0/{name}": content for name, content in _FILES.items()}, mode)
    assert _contents(tar) == _FILES
    if mode != "w":
        return
    assert _contents(_folder(tmp_path / "folder")) == _FILES
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _FILES.items():
            archive.writestr(name, content)
    assert _contents(tmp_path / "z.zip") == _FILES
    repository = _repository(tmp_path / "repo")
    (repository / "src/a.py").write_text("changed, not committed\n")
    assert _contents(repository) == _FILES
    _git(tmp_path, "clone", "-q", "--bare", str(repository), "bare.git")
    assert _contents(tmp_path / "bare.git") == _FILES


@pytest.mark.process
def test_a_repositorys_own_configuration_starts_nothing(tmp_path: Path) -> None:
    repository = _repository(tmp_path / "repo")
    touch = f"touch {tmp_path / 'started'}"
    for name in ("core.fsmonitor", "core.sshCommand", "core.pager", "filter.x.smudge", "diff.x.textconv"):
        _git(repository, "config", name, touch)
    (repository / ".git/info/attributes").write_text("* filter=x diff=x\n")
    for hook in ("post-checkout", "pre-auto-gc", "post-index-change"):
        (repository / ".git/hooks" / hook).write_text(f"#!/bin/sh\n{touch}\n")
        (repository / ".git/hooks" / hook).chmod(0o755)
    assert _contents(repository) == _FILES
    assert not (tmp_path / "started").exists()


@pytest.mark.process
def test_a_folder_of_repositories_is_many(tmp_path: Path) -> None:
    _repository(tmp_path / "all/one")
    _folder(tmp_path / "all/two")
    _tar(tmp_path / "all/three.tgz", {"x/a.py": b"x = 1\n"})
    (tmp_path / "all/notes.txt").write_text("not read")
    trees = find_trees(CodeConfig(source=str(tmp_path / "all"))).trees
    assert [(tree.name, tree.kind) for tree in trees] == [("one", "git"), ("three", "tar"), ("two", "folder")]
    both = find_trees(CodeConfig(source=[str(tmp_path / "all"), str(_folder(tmp_path / "else/two"))])).trees
    assert [tree.name for tree in both] == ["one", "three", "two", "two~2"]
    parts = select(CodeConfig(source=str(tmp_path / "all"))).parts
    assert [part_of(jsonable(part)) for part in parts] == parts


def test_a_folder_with_code_of_its_own_is_one_project_whatever_lies_in_it(tmp_path: Path) -> None:
    for name in ("src/a.py", "tests/b.py", "docs/c.md"):
        (tmp_path / "all/project" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all/project" / name).write_text("x = 1\n")
    project = str(tmp_path / "all/project")

    def named() -> dict[str, tuple[str, bool]]:
        return {t.name: (t.kind, t.whole) for t in find_trees(CodeConfig(source=project)).trees}

    assert named() == {"project": ("folder", False)}, "nothing says that it is one project"
    _tar(tmp_path / "all/project/fixtures.tgz", {"x/a.py": b"x = 1\n"})
    assert set(named()) == {"docs", "fixtures", "src", "tests"}, "a folder of archives"
    (tmp_path / "all/project/setup.py").write_text("print(1)\n")
    assert named() == {"project": ("folder", True)}
    (tmp_path / "all/project/setup.py").rename(tmp_path / "all/project/README.md")
    (tmp_path / "all/project/fixtures.tgz").rename(tmp_path / "all/project/src/fixtures.tgz")
    assert named() == {"project": ("folder", True)}
    # Projects beside it are projects with or without a git repository among them.
    for name in ("one", "two"):
        (_folder(tmp_path / "all" / name) / "pyproject.toml").write_text("[project]\n")
    before = find_trees(CodeConfig(source=str(tmp_path / "all"))).trees
    assert [(t.name, t.whole) for t in before] == [("one", True), ("project", True), ("two", True)]


@pytest.mark.process
def test_of_many_sources_a_broken_one_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    for name in ("one", "two"):
        _repository(tmp_path / "all" / name)
    _git(tmp_path / "all", "init", "-q", "empty")
    whole = _tar(tmp_path / "good.tar.gz", {f"{i}.py": random.Random(i).randbytes(900) for i in range(20)}).read_bytes()
    (tmp_path / "all/cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(tmp_path / "all/cut.zip", "w") as archive:
        archive.writestr("a.py", "x = 1\n" * 100)
    (tmp_path / "all/cut.zip").write_bytes((tmp_path / "all/cut.zip").read_bytes()[:200])
    config = CodeConfig(source=str(tmp_path / "all"))
    chosen = select(config)
    assert {part.tree.name for part in chosen.parts} == {"one", "two"}
    assert {Path(place).name for place in chosen.broken} == {"empty", "cut.tar.gz", "cut.zip"}
    assert all("\n" not in why for why in chosen.broken.values())
    fingerprints = tree_fingerprints(config)
    shutil.rmtree(tmp_path / "all/empty")
    assert tree_fingerprints(config) != fingerprints


def test_files_that_fall_by_their_names_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "weights.bin").write_bytes(b"x" * 1000)
    real, read = Path.read_bytes, list[str]()
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path.name), real(path))[1])
    config = CodeConfig(source=str(tmp_path), max_file_bytes=500)
    before = tree_fingerprints(config)
    assert read == ["a.py"]
    (tmp_path / "weights.bin").write_bytes(b"x" * 1001)
    assert tree_fingerprints(config) != before


def test_unsafe_members_are_left_out(tmp_path: Path) -> None:
    names = ["ok/a.py", "../up.py", "ok/../../b.py", "/abs.py", "c:\\d.py", "ok//e.py", "C:f.py"]
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"ok/special-{kind!r}.py")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    assert _contents(path) == {"a.py": b"abc"}
    (tree,) = find_trees(CodeConfig(source=str(path))).trees
    assert list_tree(tree, _LIMITS).left_out == Counter(unsafe_name=6, no_regular_file=4)
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), "abc")
        link = zipfile.ZipInfo("ok/link.py")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert _contents(tmp_path / "bad.zip") == {"a.py": b"abc"}


def test_bombs_are_bounded(tmp_path: Path) -> None:
    _tar(tmp_path / "big.tar.gz", {"a.py": b"x" * 999, "zeros.py": bytes(2 << 20)})
    with pytest.raises(UserError, match=r"big.tar.gz: it unpacks to more than code.max_archive_bytes"):
        _contents(tmp_path / "big.tar.gz")
    _tar(tmp_path / "many.tar", {f"{i}.py": b"" for i in range(51)}, "w")
    with pytest.raises(UserError, match=r"more than code\.max_archive_members = 50"):
        _contents(tmp_path / "many.tar")
    with zipfile.ZipFile(tmp_path / "zeros.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.py", bytes(50 << 20))
    assert len(_contents(tmp_path / "zeros.zip")["zeros.py"]) == 1001
    # A header that claims a gigabyte of extended attributes costs no gigabyte.
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30
    raw = _tar(tmp_path / "ok.tar", {"a.py": b"abc"}, "w").read_bytes()
    (tmp_path / "pax.tar.gz").write_bytes(gzip.compress(raw[:1024] + info.tobuf() + bytes(4096)))
    with pytest.raises(UserError, match=r"pax.tar.gz"):
        _contents(tmp_path / "pax.tar.gz", ReadLimits(1000, 4 << 30, 50))


@pytest.mark.process
def test_damaged_archives_cost_one_line(tmp_path: Path) -> None:
    good = _tar(tmp_path / "good.tar.gz", {f"{i}.py": random.Random(i).randbytes(900) for i in range(20)}).read_bytes()
    with zipfile.ZipFile(tmp_path / "good.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(20):
            archive.writestr(f"{i}.py", f"line {i}\n" * 50)
    zipped = (tmp_path / "good.zip").read_bytes()
    rng = random.Random(1)
    seen = 0
    for name, whole in (("t.tar.gz", good), ("z.zip", zipped)):
        for number in range(40):
            broken = bytearray(whole[: rng.randrange(1, len(whole))] if number % 2 else whole)
            for _ in range(5):
                broken[rng.randrange(len(broken))] ^= rng.randrange(1, 256)
            (tmp_path / name).write_bytes(broken)
            try:
                _contents(tmp_path / name)
            except UserError as error:
                seen += 1
                assert name in str(error) and "\n" not in str(error)
    assert seen > 40
    for name in ("none", "empty.zip"):
        (tmp_path / "empty.zip").write_bytes(b"")
        with pytest.raises(UserError, match=name):
            find_trees(CodeConfig(source=str(tmp_path / name)))
    _git(tmp_path, "init", "-q", "nothing")
    with pytest.raises(UserError, match="cannot read git repository"):
        find_trees(CodeConfig(source=str(tmp_path / "nothing")))


def test_files_are_chosen_or_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no source code"):
        select(CodeConfig(source=str(tmp_path)))
    for name in ("a.py", "b.py", "big.py", "x.bin", "LICENSE"):
        (tmp_path / name).write_text("#" * (2000 if name == "big.py" else 10))
    (part,) = select(CodeConfig(source=str(tmp_path), max_file_bytes=100, max_files=3)).parts
    assert {e.path for e in part.entries} >= {"a.py", "b.py", "big.py", "LICENSE"}
    chosen = select(CodeConfig(source=str(tmp_path), max_file_bytes=100, max_files=1))
    assert sum(e.path in ("a.py", "b.py") for e in chosen.parts[0].entries) <= 1
    assert chosen.left_out["beyond_max_files"] >= 1


def test_only_the_last_package_is_cut(tmp_path: Path) -> None:
    for package in "abcdef":
        (tmp_path / package).mkdir()
        for number in range(4):
            (tmp_path / package / f"{number}.py").write_text("x = 1\n")
    (part,) = select(CodeConfig(source=str(tmp_path), max_files=10)).parts
    assert sorted(Counter(entry.path.split("/")[0] for entry in part.entries).values()) == [2, 4, 4]


def test_the_fingerprint_knows_names_and_contents(tmp_path: Path) -> None:
    fingerprints = set()
    for name, content in (("one", "x = 1\n"), ("two", "x = 1\n"), ("one", "x = 2\n")):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "a.py").write_text(content)
        fingerprints |= set(tree_fingerprints(CodeConfig(source=str(tmp_path / name))).values())
    assert len(fingerprints) == 3


def test_manifests_are_read_with_the_rest_and_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/x.go").write_text("package b\n")
    config = CodeConfig(source=str(tmp_path / "a"), max_files=1)
    before = tree_fingerprints(config)
    (tmp_path / "a/go.mod").write_text("module m\n")
    (part,) = select(config).parts
    assert [entry.path for entry in part.entries] == ["b/x.go", "go.mod"]
    assert tree_fingerprints(config) != before


def test_names_that_are_not_utf8_are_left_out_and_counted(tmp_path: Path) -> None:
    for name in (b"a.py", b"caf\xe9.py"):
        (tmp_path / os.fsdecode(name)).write_text("x = 1\n")
    (tmp_path / os.fsdecode(b"r\xe9p")).mkdir()
    (tmp_path / os.fsdecode(b"r\xe9p") / "b.py").write_text("x = 1\n")
    config = CodeConfig(source=str(tmp_path))
    chosen = select(config)
    assert chosen.parts[0].entries == [Entry("a.py", 6, "a.py")]
    assert chosen.left_out["unnameable"] == 2
    assert tree_fingerprints(config)


def test_what_cannot_be_read_is_the_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.py").write_text("x = 1\n")
    real = os.scandir

    def denied(path: object) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:  # tests may run as root, whom no permission stops
        patch.setattr(os, "scandir", lambda path: (denied if str(path).endswith("sub") else real)(path))
        with pytest.raises(UserError, match=r"cannot read .*sub: Permission denied"):
            select(CodeConfig(source=str(tmp_path)))
    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(UserError, match=r"cannot read .*a\.py: Permission denied"):
        tree_fingerprints(CodeConfig(source=str(tmp_path)))


def test_the_most_files_are_counted_for_each_tree(tmp_path: Path) -> None:
    for repository in ("one", "two"):
        (tmp_path / repository).mkdir()
        for number in range(4):
            (tmp_path / repository / f"{number}.py").write_text(f"x = {number}\n")
    config = CodeConfig(source=[str(tmp_path / "one"), str(tmp_path / "two")], max_files=3)
    chosen = select(config)
    assert [len(part.entries) for part in chosen.parts] == [3, 3] and chosen.left_out["beyond_max_files"] == 2
    everything = select(config.model_copy(update={"max_files": None}))
    assert [len(part.entries) for part in everything.parts] == [4, 4] and not everything.left_out["beyond_max_files"]


def test_the_standard_library_is_read_where_it_is_named_and_nothing_where_no_source_is() -> None:
    (tree,) = find_trees(CodeConfig(source="python://stdlib")).trees
    assert Path(tree.location, "json", "decoder.py").is_file() and "test" in tree.pruned
    assert find_trees(CodeConfig()).trees == [] and tree_fingerprints(CodeConfig()) == {}
