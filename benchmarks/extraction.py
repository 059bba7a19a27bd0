"""Format's throughput against its physical limit: trafilatura in a bare loop, times the cores; and the F1 of each.

    python benchmarks/extraction.py [--data ../shared/data] [--cores N] [--files K]

The loops get pages that are read and decoded already. Format runs as tasks do, one process a core, each on a file of
its own: it inflates, parses WARC and HTTP, decodes, keeps the parser in a child it can kill, and detects languages. The
small files of the mini crawl are joined to one a process; those of a real crawl hold tens of thousands of pages.
The share is taken of two limits: one loop's rate times the cores, and the rates of loops that run side by side (cores
share caches and heat). F1 counts must-have and must-not-have segments of every annotated capture, and of two halves by
address: the settings of `maintext.py` were chosen on half a.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import trafilatura

from ilm_ray.config.data import TextConfig
from ilm_ray.data.documents.sources import Source, find_sources
from ilm_ray.data.web.format.charset import decode
from ilm_ray.data.web.format.documents import format_documents
from ilm_ray.data.web.format.inputs import open_source
from ilm_ray.data.web.format.maintext import main_text
from ilm_ray.data.web.format.warc import Capture, read_captures

DATA = Path(__file__).parents[1].parent / "shared/data"
CAP = 1 << 24
EVERYTHING = TextConfig(languages=None, min_chars=0, max_html_bytes=CAP)


def standard(html: str) -> str | None:
    return trafilatura.extract(html, include_comments=False)


LOOPS: dict[str, Callable[[str], str | None]] = {"ours": main_text, "standard": standard}


def captures(source: Source) -> Iterator[Capture]:
    with open_source(source) as stream:
        yield from read_captures(stream, CAP, Counter())


def dealt(files: list[Source], hands: int) -> list[list[Source]]:
    """The files in `hands` piles of about equal size, largest first."""
    piles: list[list[Source]] = [[] for _ in range(hands)]
    sizes = [0] * hands
    for file in sorted(files, key=lambda file: -Path(file.path.removeprefix("file://")).stat().st_size):
        smallest = sizes.index(min(sizes))
        piles[smallest].append(file)
        sizes[smallest] += Path(file.path.removeprefix("file://")).stat().st_size
    return piles


def loop(name: str, files: list[Source], barrier: Any, results: Any) -> None:
    pages = [decode(capture.body, capture.charset)[0] for file in files for capture in captures(file)]
    LOOPS[name](pages[0])  # what is loaded or compiled on first use is no part of a rate
    barrier.wait(300)
    began = time.perf_counter()
    for page in pages:
        LOOPS[name](page)
    results.put((len(pages), time.perf_counter() - began))


def formatted(name: str, files: list[Source], barrier: Any, results: Any) -> None:
    with tempfile.NamedTemporaryFile(suffix=".warc.gz") as joined:
        for file in files:
            with open_source(file) as stream:
                shutil.copyfileobj(stream, joined)
        joined.flush()
        barrier.wait(300)
        began = time.perf_counter()
        documents = sum(1 for _ in format_documents(replace(files[0], path=joined.name), EVERYTHING, Counter()))
        results.put((documents, time.perf_counter() - began))


def rate(work: Callable[..., None], name: str, piles: list[list[Source]]) -> float:
    """Documents a second of processes side by side, one a pile: the sum of their rates while they ran."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(len(piles)), context.Queue()
    processes = [context.Process(target=work, args=(name, pile, barrier, results)) for pile in piles]
    for process in processes:
        process.start()
    runs = [results.get(timeout=1800) for _ in processes]
    for process in processes:
        process.join()
    return float(sum(documents / seconds for documents, seconds in runs))


def f1(texts: dict[str, list[str]], gold: dict[str, dict[str, Any]]) -> dict[str, float]:
    """F1 over all annotated captures and over each half of the addresses; a payload's texts count one each."""
    counts = {part: Counter[str]() for part in ("all", "a", "b")}
    for digest, extracted in texts.items():
        row = gold[digest]
        half = "ab"[hashlib.sha1(row["url"].encode()).digest()[0] & 1]
        for text in extracted:
            for part in ("all", half):
                hits = sum(segment in text for segment in row["with"])
                counts[part]["hits"] += hits
                counts[part]["misses"] += len(row["with"]) - hits
                counts[part]["wrong"] += sum(segment in text for segment in row["without"])
    return {
        part: round(2 * c["hits"] / (2 * c["hits"] + c["misses"] + c["wrong"]), 4) for part, c in counts.items() if c
    }


def quality(files: list[Source], data: Path) -> dict[str, dict[str, float]]:
    """F1 of each extractor on the annotated captures of `files`; Format's texts are what it writes."""
    gold = {}
    with (data / "web" / "gold_text.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            gold |= dict.fromkeys(row["payload_sha1"], row)
    texts: dict[str, dict[str, list[str]]] = {name: {} for name in ("format", "standard")}
    for file in files:
        for capture, document in zip(captures(file), format_documents(file, EVERYTHING, Counter()), strict=True):
            digest = hashlib.sha1(capture.body).hexdigest()
            if digest in gold:
                html = decode(capture.body, capture.charset)[0]
                texts["format"].setdefault(digest, []).append(document.text)
                texts["standard"].setdefault(digest, []).append(standard(html) or "")
    return {name: f1(extracted, gold) for name, extracted in texts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--files", type=int, help="only the first K files, for a quick look")
    options = parser.parse_args()
    files = find_sources(str(options.data / "web" / "CC-MAIN-*" / "*.warc.gz"))[: options.files]
    piles = dealt(files, options.cores)
    single = {name: rate(loop, name, piles[:1]) for name in LOOPS}
    beside = {name: rate(loop, name, piles) for name in LOOPS}
    whole = rate(formatted, "format", piles)
    figures: dict[str, Any] = {
        "cores": options.cores,
        "files": len(files),
        "format_docs_per_s": round(whole, 1),
        **{f"loop_{name}_docs_per_s": round(value, 1) for name, value in single.items()},
        **{f"loops_{name}_docs_per_s": round(value, 1) for name, value in beside.items()},
        **{f"share_of_{name}_times_cores": round(whole / value / options.cores, 3) for name, value in single.items()},
        **{f"share_of_{name}_beside": round(whole / value, 3) for name, value in beside.items()},
        "f1": quality(files, options.data),
    }
    for name, value in single.items():
        print(f"{name:9} bare loop {value:6.1f} docs/s, {len(piles)} side by side {beside[name]:6.1f} docs/s")
    print(f"{'format':9} {len(piles)} processes {whole:6.1f} docs/s")
    for name in LOOPS:
        shares = figures[f"share_of_{name}_times_cores"], figures[f"share_of_{name}_beside"]
        print(f"format is {shares[0]:.2f} of {name} x cores, {shares[1]:.2f} of {name} side by side")
    for name, parts in figures["f1"].items():
        print(f"F1 of {name}: " + ", ".join(f"{part} {value:.4f}" for part, value in parts.items()))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
