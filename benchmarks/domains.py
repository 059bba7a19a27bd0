"""Blocked domains at the report's size, and blocked words at its 36,289: memory, speed, exactness.

    python benchmarks/domains.py [--data DIR] [--domains N] [--urls N]

Domains: builds a table from a generated list of 13 million (in plain and hosts lines, with the real lists where
DIR/lists is there), each in a process of its own whose peak memory is taken, and looks up a million URLs: half hits, of
which half through a subdomain. Every answer is known. The peer is the usual way, a Python set of strings and a walk up
the labels of urlsplit's host, on a million domains and the same URLs. Words: one pass over English and Chinese text.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from ilm_ray.data.web.safe.blocklist import Domains, Words, read_words

WORDS = 36_289
TLDS = ("com", "net", "org", "de", "cn", "co.uk", "com.cn", "info", "xyz", "ru")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared/data")
    parser.add_argument("--domains", type=int, default=13_000_000)
    parser.add_argument("--urls", type=int, default=1_000_000)
    parser.add_argument("--step", choices=("build", "use"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        step = build if arguments.step == "build" else use
        print(json.dumps(step(arguments.folder, arguments.domains, arguments.urls)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_list(folder / "list.txt", arguments.domains, arguments.data / "lists")
        common = [sys.executable, __file__, "--folder", str(folder), "--domains", str(arguments.domains)]
        figures = {}
        for name in ("build", "use"):
            call = [*common, "--urls", str(arguments.urls), "--step", name]
            figures[name] = json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout)
            print(f"{name}: {figures[name]}", flush=True)
    peer = python_set(min(1_000_000, arguments.domains), arguments.urls)
    ratio = round(figures["use"]["urls_per_second"] / peer["urls_per_second"], 2)
    print(f"a Python set of strings: {peer}; table/set {ratio}")
    words = block_words(arguments.data)
    print(f"words: {words}")
    bars = {
        "builder_mb": figures["build"]["peak_mb"] < 1500,
        "user_mb": figures["use"]["peak_mb"] < 1500,
        "urls_per_second": figures["use"]["urls_per_second"] >= 200_000,
        "exact": figures["use"]["wrong"] == 0,
    }
    print(json.dumps({"benchmark": "domains", **figures, "set": peer, "ratio": ratio, "words": words, "passed": bars}))


def domain(number: int) -> str:
    """The listed domain of this number; those of unlisted numbers look alike."""
    mixed = number * 0x9E3779B1 % (1 << 32)
    return f"{mixed:x}-{['shop', 'bet', 'cam', 'news'][mixed % 4]}{number}.{TLDS[mixed % len(TLDS)]}"


def write_list(path: Path, domains: int, real: Path) -> None:
    with path.open("w") as out:
        for number in range(domains):
            out.write(f"0.0.0.0 {domain(number)}\n" if number % 4 == 0 else f"{domain(number)}\n")
        for listed in sorted([*real.glob("sinfonietta/*"), *real.glob("ut1/*/domains")]):
            out.write(listed.read_text("utf-8") + "\n")


def urls(domains: int, count: int) -> Iterator[tuple[str, str | None]]:
    """(URL, the blocked domain in it): a quarter of the URLs is a listed domain, one lies under one, two are free."""
    rng = random.Random(1)
    for i in range(count):
        hit = domain(rng.randrange(domains))
        path = f"/articles/{i}/index.html?page={i % 9}"
        if i % 4 == 0:
            yield f"https://{hit}{path}", hit
        elif i % 4 == 1:
            yield f"http://www.m{i}.{hit.upper()}:8080{path}", hit
        else:
            yield f"https://www.{domain(domains + rng.randrange(domains))}{path}", None


def build(folder: Path, domains: int, count: int) -> dict[str, float]:
    started = time.perf_counter()
    table, listing = Domains.read(folder / "list.txt")
    table.save(folder / "domains.npy")
    return {
        "domains": listing.domains,
        "ignored_lines": listing.ignored,
        "public_suffixes": len(listing.public_suffixes),
        "seconds": round(time.perf_counter() - started, 1),
        "peak_mb": peak_mb(),
        "file_mb": round((folder / "domains.npy").stat().st_size / 1e6),
    }


def use(folder: Path, domains: int, count: int) -> dict[str, float]:
    table = Domains.load(folder / "domains.npy")
    table.match_batch(["https://warm.up/"])
    wrong, seconds, batch = 0, 0.0, list(urls(domains, count))
    for start in range(0, count, 1000):
        part = [url for url, _ in batch[start : start + 1000]]
        started = time.perf_counter()
        matches = table.match_batch(part)
        seconds += time.perf_counter() - started
        wrong += sum(a != b for a, (_, b) in zip(matches, batch[start : start + 1000], strict=True))
    return {"urls_per_second": round(count / seconds), "wrong": wrong, "peak_mb": peak_mb()}


def python_set(domains: int, count: int) -> dict[str, float]:
    before = peak_mb()
    known = {domain(number) for number in range(domains)}
    memory = peak_mb() - before
    batch = [url for url, _ in urls(domains, count)]
    started = time.perf_counter()
    for url in batch:
        host = urlsplit(url).hostname or ""
        while host and host not in known:
            host = host.partition(".")[2]
    return {"urls_per_second": round(count / (time.perf_counter() - started)), "mb_for_a_million": round(memory)}


def block_words(data: Path) -> dict[str, float]:
    """MB of UTF-8 a second with as many words as the report's list, real ones among them where they are there."""
    rng, lists = random.Random(2), data / "lists"
    words = {w for name in ("ldnoobw/en", "ldnoobw/zh", "sensitive_lexicon_zh") if (lists / name).exists()
             for w in read_words(lists / name)}  # fmt: skip
    while len(words) < WORDS:
        size = rng.randint(2, 5)
        letters = "abcdefghijklmnopqrstuvwxyz" if rng.random() < 0.5 else [chr(c) for c in range(0x4E00, 0x5E00)]
        words.add("".join(rng.choice(letters) for _ in range(size + 3 * isinstance(letters, str))))
    finder = Words(words)
    figures = {"words": len(words)}
    for language, pattern in (("en", "text/books_en/16215.txt"), ("zh", "text/books_zh/红楼梦.txt")):
        path = data / pattern
        text = path.read_text("utf-8") if path.exists() else "the calm river 河流平静" * 50_000
        documents = [text[i : i + 4000] for i in range(0, len(text), 4000)]
        started = time.perf_counter()
        hits = sum(len(finder.matches(document)) for document in documents)
        seconds = time.perf_counter() - started
        figures |= {f"{language}_mb_per_second": round(len(text.encode()) / 1e6 / seconds, 1), f"{language}_hits": hits}
    return figures


def peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
