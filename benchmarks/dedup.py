"""Claims: signatures at 6,000 documents of 600 words a second and core; a million documents deduplicated in 6 minutes
and 4 GiB above an idle Ray on two cores, in time that grows no faster than n^1.1.

    python benchmarks/dedup.py [--documents 1000000] [--words 200] [--folder DIR] [--seed 0]

Signatures are timed in CPU seconds of one thread, from text to band keys, against datasketch given joined 5-grams: in
bulk, and by the update loop of its tutorials. Dedup runs in a process of its own over generated documents (see
duplicates.py) in files of 50,000: read JSON Lines, sign, shuffle, components, write what stays. It is timed with Ray
up; at a hundredth and a tenth of the documents too.
"""

import argparse
import itertools
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasketch import MinHash
from duplicates import NGRAM, Planted, plant, texts, write_corpus
from processes import TreePeak, run_measured, tree_mb

from ilm_ray.base.jsonl import batches
from ilm_ray.config import load_config
from ilm_ray.config.data import TextConfig
from ilm_ray.data.dedup.drops import load_drops, save_drops
from ilm_ray.data.dedup.minhash import bands_and_rows, catch_probability, sign_batch
from ilm_ray.data.dedup.pipeline import Signed, find_duplicates
from ilm_ray.data.documents import paths
from ilm_ray.data.documents.document import read_documents
from ilm_ray.data.documents.passes import BATCH, FileTask, run_pass
from ilm_ray.data.documents.sources import FILE_BITS, ROW_BITS, Source
from ilm_ray.data.web import steps
from jobs.frame.cluster import LocalRay

REPOSITORY = Path(__file__).parents[1]
PER_FILE = 50_000
CORES = 2
SIGN_WORDS = 600
SIMILARITIES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
GOALS = {"signatures_per_s": 6000, "seconds": 360, "above_idle_mb": 4096, "exponent": 1.1}


def signatures(seed: int) -> dict[str, float]:
    """Documents a second of one core: ours, and datasketch's two ways."""
    config = TextConfig()
    bands, rows = bands_and_rows(config.threshold, config.num_hashes)
    ((documents, _),) = texts(plant(1000, SIGN_WORDS, seed, clustered=0.0), 0, 1000, seed)

    def grams(text: str) -> list[bytes]:
        words = text.split()
        return [" ".join(words[i : i + NGRAM]).encode() for i in range(len(words) - NGRAM + 1)]

    def keys(sketch: MinHash) -> list[bytes]:
        return [sketch.hashvalues[i * rows : (i + 1) * rows].tobytes() for i in range(bands)]

    def ours(some: list[str]) -> None:
        for start in range(0, len(some), BATCH):
            sign_batch(some[start : start + BATCH], config.ngram, config.num_hashes, bands, rows)

    def bulk(some: list[str]) -> None:
        for sketch in MinHash.generator(map(grams, some), num_perm=config.num_hashes):
            keys(sketch)

    def loop(some: list[str]) -> None:
        for text in some:
            sketch = MinHash(num_perm=config.num_hashes)
            for gram in grams(text):
                sketch.update(gram)
            keys(sketch)

    ours(documents)  # what is compiled at first use is compiled now
    return {
        "ours": _per_second(ours, documents * 10),
        "datasketch_bulk": _per_second(bulk, documents),
        "datasketch_update": _per_second(loop, documents[:100]),
    }


def sign(task: FileTask) -> None:
    """Signatures of a file of cleaned documents."""
    cleaned = paths.outputs(task.folder, paths.CLEANED, task.source.index)[0]
    for _ in steps.sign(batches(read_documents(cleaned), BATCH), task):
        pass


def drop(task: FileTask) -> None:
    """Write what stays of a file of cleaned documents, and what falls."""
    run_pass(paths.FINAL, {"dedup": steps.drop_duplicates}, task)


def deduplicate(folder: Path, sources: list[Source], config: TextConfig) -> dict[str, float]:
    """Sign, find and drop, with Ray up; seconds of each."""
    import ray

    def each(work: Callable[[FileTask], None]) -> None:
        task = ray.remote(work)
        ray.get([task.remote(FileTask(source, folder, config)) for source in sources])

    times = [time.monotonic()]
    each(sign)
    times.append(time.monotonic())
    signed = [Signed(str(paths.signatures_path(folder, s.index)), s.key) for s in sources]
    drops = find_duplicates(signed, folder / "dedup", config.shuffle_partitions, None)
    keys = drops.ids >> np.uint64(ROW_BITS)
    for source in sources:
        save_drops(paths.drops_path(folder, source.index), drops.part(keys == np.uint64(source.key)))
    times.append(time.monotonic())
    each(drop)
    times.append(time.monotonic())
    return dict(zip(("sign", "find", "drop"), np.diff(times).round(2).tolist(), strict=True))


def files_for(documents: int) -> list[Source]:
    """Input files of at most 50,000 documents, and no fewer than cores."""
    count = max(CORES, math.ceil(documents / PER_FILE))
    return [Source(i, 0, i, "generated", f"{i}.jsonl.zst") for i in range(count)]


def work(folder: Path, documents: int) -> None:
    """The measured process: start Ray, deduplicate `folder`, print the figures as one JSON line."""
    import ray

    config = load_config("nano", None, [f"ray.num_cpus={CORES}", "ray.dashboard=false", "ray.object_store_mb=1024"])
    with LocalRay(config):
        nap = ray.remote(_nap)
        ray.get([nap.remote() for _ in range(CORES)])  # an idle Ray has its workers
        idle = tree_mb(os.getpid())
        with TreePeak(os.getpid()) as memory:
            seconds = deduplicate(folder, files_for(documents), config.text)
    print(json.dumps({"steps": seconds, "idle_mb": round(idle), "above_idle_mb": round(memory.peak_mb - idle)}))


def measure(folder: Path, documents: int, words: int, seed: int, timeout_s: float) -> dict[str, Any]:
    """Generate, deduplicate in a process of its own, and hold what fell against what was planted."""
    sources = files_for(documents)
    started = time.monotonic()
    planted = plant(documents, words, seed)
    similar = write_corpus(folder, planted, sources, seed)
    print(f"{documents} documents generated in {time.monotonic() - started:.0f} s", flush=True)
    command = [sys.executable, str(Path(__file__)), "--work", str(folder), "--documents", str(documents)]
    finished = run_measured(command, timeout_s, {"PYTHONPATH": os.environ.get("PYTHONPATH", str(REPOSITORY))})
    figures = json.loads(finished.stdout.splitlines()[-1])
    figures["seconds"] = round(sum(figures["steps"].values()), 2)
    figures["seconds_with_ray_start"] = round(finished.seconds, 1)
    kept = sum(paths.kept_and_removed(folder, paths.FINAL, source.index, "dedup")["kept"] for source in sources)
    fallen, keeper = _drops(folder, sources, documents)
    assert kept + len(fallen) == documents, "what was written and what fell do not add up"
    return {"documents": documents, "kept": kept} | figures | _against(planted, similar, fallen, keeper)


def _against(planted: Planted, similar: np.ndarray, fallen: np.ndarray, keeper: np.ndarray) -> dict[str, Any]:
    """Precision: of the documents that fell, how many fell for a member of their own planted cluster.

    Recall: of the pairs (copy, its base) at the threshold or above, how many are in one cluster. Banding finds a pair
    with the probability that `curve` averages; a pair may also be found through other copies.
    """
    config = TextConfig()
    bands, rows = bands_and_rows(config.threshold, config.num_hashes)
    label = np.arange(len(similar))
    label[fallen] = keeper
    unchanged = np.flatnonzero(planted.changed == 0)
    base = unchanged[np.unique(planted.content[unchanged], return_index=True)[1]][planted.content]
    pair, caught = base != np.arange(len(base)), label == label[base]
    by_span = {}
    for low, high in itertools.pairwise(SIMILARITIES):
        span = pair & (similar >= low) & ((similar < high) | (high == 1.0))
        if span.any():
            curve = float(np.mean([catch_probability(s, bands, rows) for s in similar[span].tolist()]))
            by_span[f"{low}-{high}"] = [int(span.sum()), round(float(caught[span].mean()), 4), round(curve, 4)]
    right = planted.content[fallen] == planted.content[keeper]
    return {
        "fallen": len(fallen),
        "precision": round(float(right.mean()), 6) if len(fallen) else 1.0,
        "recall": round(float(caught[pair & (similar >= config.threshold)].mean()), 4),
        "pairs_found_curve": by_span,
    }


def _drops(folder: Path, sources: list[Source], documents: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the documents that fell and of the copies kept instead."""
    borders = np.linspace(0, documents, len(sources) + 1).astype(int)
    loaded = [load_drops(paths.drops_path(folder, source.index)) for source in sources]

    def position(ids: np.ndarray) -> np.ndarray:
        file = (ids >> np.uint64(ROW_BITS)) & np.uint64((1 << FILE_BITS) - 1)
        return np.asarray(borders[file.astype(int)] + (ids & np.uint64((1 << ROW_BITS) - 1)).astype(int))

    return (
        position(np.concatenate([drops.ids for drops in loaded])),
        position(np.concatenate([drops.duplicate_of for drops in loaded])),
    )


def _nap() -> None:
    time.sleep(1.0)


def _per_second(function: Callable[[list[str]], None], some: list[str]) -> float:
    started = time.process_time()
    function(some)
    return round(len(some) / (time.process_time() - started), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=200, help="mean length of a document")
    parser.add_argument("--folder", type=Path, help="where documents and results go (default: a temporary folder)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds that one size may take")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.documents)
        return

    rates = signatures(arguments.seed)
    for name, rate in rates.items():
        print(f"{name:<18} {rate:>9.1f} documents of {SIGN_WORDS} words a second, {rates['ours'] / rate:.1f} to ours")
    runs = []
    with tempfile.TemporaryDirectory() as temporary:
        for documents in (arguments.documents // 100, arguments.documents // 10, arguments.documents):
            at = (arguments.folder or Path(temporary)).absolute() / f"dedup-{documents}"
            runs.append(measure(at, documents, arguments.words, arguments.seed, arguments.timeout))
            print("  ".join(f"{name} {value}" for name, value in runs[-1].items()), flush=True)
    sizes, seconds = ([run[name] for run in runs] for name in ("documents", "seconds"))
    exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    last = float(np.log(seconds[-1] / seconds[-2]) / np.log(sizes[-1] / sizes[-2]))
    print(f"time grows like n^{exponent:.2f}, over the last decade like n^{last:.2f}")
    figures = {
        "signatures": rates,
        "words": arguments.words,
        "dedup": runs,
        "exponent": round(exponent, 3),
        "exponent_last_decade": round(last, 3),
        "goals": GOALS,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
