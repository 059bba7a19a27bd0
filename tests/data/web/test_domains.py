"""Blocked domains against a plain set of strings, and every shape of list that is in use."""

import gzip
import multiprocessing
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import idna
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ilm_ray.base.errors import UserError
from ilm_ray.data.documents.codepoints import flatten
from ilm_ray.data.web.safe.blocklist import DomainList, Domains, entries, host_of
from ilm_ray.data.web.safe.hosts import fill, host_key

NAMES = st.lists(
    st.sampled_from(["a", "B", "bad", "co", "xn--bcher-kva", "bücher", "例え", "1", "_x", "x-y"]), min_size=1
)
HOSTS = NAMES.map(".".join)


def domains(folder: Path, *lines: str) -> Domains:
    (folder / "list.txt").write_text("\n".join(lines))
    return Domains.read(folder / "list.txt")[0]


def brute_force(blocked: Iterable[str], url: str) -> str | None:
    """The definition: host, lower case, as punycode; then drop labels from the left until something is blocked."""
    host = ".".join(part if part.isascii() else idna.encode(part).decode() for part in _labels(url))
    known = set(blocked)
    while host:
        if host in known:
            return host
        host = host.partition(".")[2] if host.strip("0123456789.") else ""
    return None


def _labels(url: str) -> list[str]:
    return (urlsplit(url).hostname or "").lower().strip(".").split(".")


@pytest.mark.parametrize(
    ("url", "hit"),
    [
        ("https://bad.test/x", "bad.test"),
        ("https://WWW.Bad.test:8080/x", "bad.test"),
        ("http://a.b.bad.test", "bad.test"),
        ("http://a.deep.bad.test", "deep.bad.test"),
        ("https://notbad.test/bad.test", None),
        ("https://test/", None),
        ("https://bad.test.good.example/", None),
        ("https://user:word@bad.test./x", "bad.test"),
        ("https://bad.test@good.example/", None),
        ("https://good.example/?to=https://bad.test/", None),
        ("//bad.test/x", "bad.test"),
        ("bad.test/x", None),  # no scheme, no host
        ("  https://bad.test/x", "bad.test"),
        ("https://b\tad.test/x", "bad.test"),
        ("https:\\\\bad.test\\x", "bad.test"),  # as browsers read it
        ("https://good.example\\@bad.test/", None),
        ("https://b%61d.test/", "bad.test"),
        ("https://www.Bücher.test/", "xn--bcher-kva.test"),
        ("https://例え。テスト/", "xn--r8jz45g.xn--zckzah"),
        ("https://ｂａｄ.test/", "bad.test"),
        ("http://10.1.2.3:80/", "10.1.2.3"),
        ("http://9.10.1.2.3/", None),
        ("http://[2001:DB8::1]:80/", "2001:db8::1"),
        ("http://[2001:db8::2]/", None),
        ("http://[broken", None),
        ("no url at all", None),
        ("", None),
    ],
)
def test_a_blocked_domain_blocks_what_lies_under_it(tmp_path: Path, url: str, hit: str | None) -> None:
    lines = ["bad.test", "deep.bad.test", "bücher.test", "例え.テスト", "10.1.2.3", "2001:db8::1"]
    assert domains(tmp_path, *lines).match_batch([url, "http://x.bad.test"]) == [hit, "bad.test"]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("bad.test", ["bad.test"]),
        ("  Bad.TEST.\r", ["bad.test"]),
        ("0.0.0.0 bad.test", ["bad.test"]),
        ("127.0.0.1\tbad.test other.test # why", ["bad.test", "other.test"]),
        ("::1 localhost ip6-localhost", []),
        ("*.bad.test", ["bad.test"]),
        (".bad.test", ["bad.test"]),
        ("http://bad.test/", ["bad.test"]),
        ("bad.test:8080", ["bad.test"]),
        ("bücher.test", ["xn--bcher-kva.test"]),
        ("10.1.2.3", ["10.1.2.3"]),
        ("0.0.0.0 10.1.2.3", ["10.1.2.3"]),
        ("2001:DB8::1", ["2001:db8::1"]),
        ("bad.test/only/this/page", []),
        ("someone@bad.test", []),
        ("(adult|sex)site.", []),
        ("com", []),
        ("# bad.test", []),
        ("", []),
    ],
)
def test_a_line_of_a_list(tmp_path: Path, line: str, named: list[str]) -> None:
    assert entries(line) == named
    (tmp_path / "list.txt").write_text(f"first.test\n{line}\nlast.test")
    table, listing = Domains.read(tmp_path / "list.txt")
    comment = not line.partition("#")[0].strip()
    assert listing == DomainList(2 + len(named), int(not named and not comment), [])
    urls = [f"http://x.[{n}]/" if ":" in n else f"http://{n}/" for n in ("first.test", *named, "last.test")]
    assert all(table.match_batch([url.replace("x.[", "[") for url in urls]))


@pytest.mark.long
@settings(max_examples=300)
@given(st.lists(HOSTS, min_size=1, max_size=8), st.lists(HOSTS, max_size=8), st.sampled_from(["", "u:p@", "a@b@"]))
def test_look_ups_equal_a_set_of_strings(listed: list[str], hosts: list[str], user: str) -> None:
    known = [name for line in listed for name in entries(line)]
    empty = Domains.of(np.zeros(0, np.uint64))
    assert empty.match_batch([f"http://{h}/" for h in hosts]) == [None] * len(hosts)
    table = Domains.of(np.array([key_of(name) for name in known], np.uint64))
    urls = [f"hTTp://{user}{host}:80/p" for host in hosts + listed]
    assert table.match_batch(urls) == [brute_force(known, url) for url in urls]


def key_of(name: str) -> int:
    return int(host_key(flatten([name])[0]))


@pytest.mark.long
@settings(max_examples=50)
@given(st.lists(st.text("aB1.- \t#*/é:\r", max_size=12), max_size=6))
def test_compiled_and_python_readers_agree_on_every_line(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    path = tmp_path_factory.mktemp("lines") / "list.txt"
    path.write_text("\n".join(lines), newline="")
    table, listing = Domains.read(path)
    names = {name for line in lines for name in entries(line)}
    assert listing.domains == len(names)
    assert np.array_equal(table.table, Domains.of(np.array([key_of(n) for n in names], np.uint64)).table)
    assert listing.ignored == sum(not entries(line) and bool(line.partition("#")[0].strip()) for line in lines)


def test_unicode_hosts_are_what_idna_makes_of_them() -> None:
    for host in ("bücher.example", "例え.テスト", "президент.рф", "中国互联网络信息中心.中国", "faß.de", "ÑANDÚ.cl"):
        assert host_of(f"http://{host}/") == idna.encode(host, uts46=True).decode()


def test_lists_may_be_packed_or_ut1_folders(tmp_path: Path) -> None:
    for category, names in (("adult", "a.test\nb.test\n"), ("gambling", "b.test\nc.test")):
        (tmp_path / "ut1" / category).mkdir(parents=True)
        (tmp_path / "ut1" / category / "domains").write_text(names)
        (tmp_path / "ut1" / category / "urls").write_text("good.test/bad-page\ngood.test\n")
        (tmp_path / "ut1" / category / "expressions").write_text("(x|y).test")
    table, listing = Domains.read(tmp_path / "ut1")
    assert listing == DomainList(3, 0, []) and table.match_batch(["http://good.test/bad-page"]) == [None]
    with gzip.open(tmp_path / "list.gz", "wt") as out:
        out.write("c.test\na.test\nb.test\na.test\n")
    packed, _ = Domains.read(tmp_path / "list.gz")
    assert np.array_equal(packed.table, table.table)  # neither order nor repeats count
    packed.save(tmp_path / "x.npy")
    table.save(tmp_path / "y.npy")
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "y.npy").read_bytes()
    mapped = Domains.load(tmp_path / "x.npy")
    assert mapped.match_batch(["http://www.c.test", "http://d.test"]) == ["c.test", None]
    assert not mapped.table.flags.writeable


def test_a_public_suffix_does_not_block_a_country(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("com\nco.uk\nbad.co.uk\ngithub.io\n")
    table, listing = Domains.read(tmp_path / "list.txt")
    assert listing == DomainList(2, 1, ["co.uk"])
    urls = ["http://a.co.uk", "http://bad.co.uk", "http://a.com", "http://a.github.io"]
    assert table.match_batch(urls) == [None, "bad.co.uk", None, "github.io"]


def test_lists_that_cannot_be_read_are_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "gbk.txt").write_bytes("坏.test\n".encode("gbk"))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"a.test\n" * 1000)[:-20])
    (tmp_path / "binary").write_bytes(b"x" * (9 << 20))
    (tmp_path / "folder").mkdir()
    for name, message in (
        ("gbk.txt", "not UTF-8"),
        ("cut.gz", "cannot read block list"),
        ("none.txt", "cannot read block list"),
        ("binary", "more than"),
        ("folder", "without any file named 'domains'"),
    ):
        with pytest.raises(UserError, match=message):
            Domains.read(tmp_path / name)


def test_a_full_table_wraps_around() -> None:
    keys = np.array([2**64 - 1, 2**64 - 2, 2**64 - 3, 5], np.uint64)  # three that want the last slot
    table = np.zeros(5, np.uint64)
    fill(keys, table)
    assert sorted(table.tolist()) == sorted([0, *keys.tolist()])
    assert Domains(table).match_batch(["http://a.b"]) == [None]


@pytest.mark.process
def test_long_lists_are_cut_into_blocks_at_line_ends(tmp_path: Path) -> None:
    names = [f"site-{i}.example-{i % 7}.test" for i in range(300_000)]  # 8 MB: three blocks
    table = domains(tmp_path, *names)
    assert table.match_batch([f"https://www.{n}/" for n in names]) == names
    assert table.match_batch([f"https://{n}x/" for n in names]) == [None] * len(names)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        table.save(tmp_path / "t.npy")
        assert pool.apply(mapped_match, (tmp_path / "t.npy", f"https://{names[5]}/")) == names[5]


def mapped_match(path: Path, url: str) -> str | None:
    return Domains.load(path).match_batch([url])[0]
