"""The web text stage on Ray Data: WARC files -> `quality/kept-NNNNN.jsonl.zst` (report section 3.1).

Three passes: files through Format and Clean to signatures; one shuffle that brings equal band keys together; files
through Dedup, Safe and High-quality. Ray Data carries file names and band keys; documents stay in the files.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray

from ilm_ray.config import Config
from ilm_ray.config.schema import TextConfig
from ilm_ray.corpus.files import write_text_atomic
from ilm_ray.corpus.stage import Context, Result
from ilm_ray.demo import DATA
from ilm_ray.errors import UserError
from ilm_ray.observe.metrics import DOCUMENTS, counter
from ilm_ray.observe.progress import Progress
from ilm_ray.text import steps
from ilm_ray.text.blocklist import read_list
from ilm_ray.text.classifier import NAMES, read_labels, train, write_card
from ilm_ray.text.components import Drops, Edges, resolve, stars
from ilm_ray.text.funnel import Funnel
from ilm_ray.text.inputs import file_fingerprint, fingerprint
from ilm_ray.text.minhash import bands_and_rows, catch_probability
from ilm_ray.text.sources import ROW_BITS, Source, find_sources, jsonable

FileStep = Callable[[Source, Path, TextConfig], None]
FIRST_PASS: tuple[FileStep, ...] = (steps.format_file, steps.clean_file, steps.sign_file)
LAST_PASS: tuple[FileStep, ...] = (steps.drop_file, steps.safe_file, steps.quality_file)
FIRST_STEPS, LAST_STEPS = steps.STEPS[:2], steps.STEPS[2:]


def settings(config: Config) -> dict[str, Any]:
    """What the result depends on. Lists and labels count by their content, see `sources`."""
    apart = {"shuffle_partitions", "blocked_domains", "blocked_words"}
    return {"seed": config.seed, "text": config.text.model_dump(exclude=apart)}


def sources(config: Config) -> dict[str, str]:
    """Fingerprints of everything read from outside. Raises UserError where one is missing or none is an archive."""
    files = {f"warc {source.path}": fingerprint(source) for source in find_sources(config.input)}
    if not any(readable for _, readable in files.values()):
        raise UserError(
            f"no file of input={config.input} is a web archive (WARC, ARC or WACZ); give a glob of archives"
        )
    found = {name: found for name, (found, _) in files.items()}
    for name, path in _side_inputs(config.text).items():
        found[name] = file_fingerprint(path, name)
    # A wrong list or label file is found before hours of work, not after.
    for path in _block_lists(config.text).values():
        read_list(path)
    for name in NAMES:
        read_labels(_labels_path(config.text, name))
    return found


def run_text(context: Context) -> Result:
    """All five steps; files that an earlier, killed run finished are not touched again."""
    config, folder = context.config.text, context.folder
    files = find_sources(context.config.input)
    progress = Progress("text", 2 * len(files), every_s=3.0)
    first = [f for f in files if not _first_pass_done(folder, f)]
    progress.update(len(files) - len(first))
    documents = 0
    for done, counts in enumerate(_each_file(first, FIRST_PASS, FIRST_STEPS, folder, config), len(files) - len(first)):
        documents += sum(counts["format"].values())
        progress.update(done + 1, documents_in=documents)
    if not all(steps.drops_path(folder, f.index).is_file() for f in files):
        _write_drops(folder, files, find_duplicates(folder, files, config.shuffle_partitions))
    cards = _train(folder, context.config)
    steps.write_block_lists(folder, config)
    last = [f for f in files if not _last_pass_done(folder, f)]
    documents = 0
    for done, counts in enumerate(_each_file(last, LAST_PASS, LAST_STEPS, folder, config), 2 * len(files) - len(last)):
        documents += counts["quality"]["kept"]
        progress.update(done + 1, documents_kept=documents)
    return _result(folder, files, config, cards)


def find_duplicates(folder: Path, files: list[Source], partitions: int) -> Drops:
    """Documents that share the exact key or a band with an older id, from the files' signatures."""
    paths = [{"path": str(steps.signatures_path(folder, f.index))} for f in files]
    rows = (
        ray.data.from_items(paths, override_num_blocks=len(paths))
        .map_batches(_local_stars, batch_size=1, batch_format="numpy")
        .repartition(partitions, keys=["key"])
        .map_batches(_partition_stars, batch_size=None, batch_format="numpy")
    )
    empty = {"id": np.zeros(0, np.uint64), "low": np.zeros(0, np.uint64), "exact": np.zeros(0, bool)}
    batches = [empty, *rows.iter_batches(batch_size=None, batch_format="numpy")]
    high, low, exact = (np.concatenate([batch[name] for batch in batches]) for name in ("id", "low", "exact"))
    return resolve(Edges(high.astype(np.uint64), low.astype(np.uint64), exact.astype(bool)))


def _local_stars(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Combine on the map side: one row a key, so that a key that everyone shares costs one row a file.

    Rows with low == id carry a key to the shuffle. The others are finished edges; their id is their key, which
    spreads them evenly.
    """
    (path,) = batch["path"]
    with np.load(str(path), allow_pickle=False) as saved:
        ids, exact_keys, bands = saved["ids"], saved["exact"], saved["bands"]
    keys = np.concatenate([exact_keys, bands.ravel()])
    owners = np.concatenate([ids, np.repeat(ids, bands.shape[1])])
    exact = np.arange(len(keys)) < len(ids)
    heads, edges = stars(keys, owners, exact)
    return {
        "key": np.concatenate([keys[heads], edges.high]),
        "id": np.concatenate([owners[heads], edges.high]),
        "low": np.concatenate([owners[heads], edges.low]),
        "exact": np.concatenate([exact[heads], edges.exact]),
    }


def _partition_stars(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All rows of a key are here: one sort, star edges to the smallest id."""
    if not len(batch.get("key", ())):
        return {"id": np.zeros(0, np.uint64), "low": np.zeros(0, np.uint64), "exact": np.zeros(0, bool)}
    carried = batch["id"] == batch["low"]
    _, edges = stars(batch["key"][carried], batch["id"][carried], batch["exact"][carried])
    return {
        "id": np.concatenate([edges.high, batch["id"][~carried]]),
        "low": np.concatenate([edges.low, batch["low"][~carried]]),
        "exact": np.concatenate([edges.exact, batch["exact"][~carried]]),
    }


def _each_file(
    files: list[Source], chain: tuple[FileStep, ...], names: tuple[str, ...], folder: Path, config: TextConfig
) -> Iterator[dict[str, dict[str, int]]]:
    """Run `chain` on every file, one task a file; yields each finished file's outcomes of the steps `names`.

    A task's only effect is its files, so it may run twice; the live metrics are counted here, where a file
    arrives once.
    """

    def work(row: dict[str, Any]) -> dict[str, Any]:
        source = Source(**row)
        for step in chain:
            step(source, folder, config)
        return {"counts": json.dumps({name: steps.kept_and_removed(folder, name, source.index) for name in names})}

    if not files:
        return
    rows = ray.data.from_items([jsonable(f) for f in files], override_num_blocks=len(files)).map(work)
    for row in rows.iter_rows():
        counts: dict[str, dict[str, int]] = json.loads(row["counts"])
        for name, outcomes in counts.items():
            for outcome, documents in outcomes.items():
                if documents:  # Ray refuses to count by nothing
                    counter(*DOCUMENTS).inc(documents, tags={"stage": f"text/{name}", "outcome": outcome})
        yield counts


def _write_drops(folder: Path, files: list[Source], drops: Drops) -> None:
    """One drop list a file: its reader needs no join."""
    keys = drops.ids >> np.uint64(ROW_BITS)
    for source in files:
        mine = keys == source.key
        steps.save_arrays(
            steps.drops_path(folder, source.index),
            ids=drops.ids[mine],
            duplicate_of=drops.duplicate_of[mine],
            exact=drops.exact[mine],
        )


def _train(folder: Path, config: Config) -> dict[str, Any]:
    """Train the classifiers that are not there yet; their cards by name."""
    cards = {}
    for name in NAMES:
        path = steps.model_path(folder, name)
        card = path.with_suffix(".json")
        if not (path.is_file() and card.is_file()):
            path.parent.mkdir(parents=True, exist_ok=True)
            classifier, measured = train(read_labels(_labels_path(config.text, name)), config.seed)
            classifier.save(path)
            write_card(card, measured)
        cards[name] = json.loads(card.read_text(encoding="utf-8"))
    return cards


def _result(folder: Path, files: list[Source], config: TextConfig, cards: dict[str, Any]) -> Result:
    funnel, records = Funnel(), Counter[str]()
    for step in steps.STEPS:
        for source in files:
            stats = steps.read_stats(folder, step, source.index)
            funnel.merge(stats["funnel"])
            records.update(stats["records"])
    _write_json(folder / "funnel.json", funnel.rows())
    _write_json(folder / "records.json", dict(sorted(records.items())))
    bands, rows = bands_and_rows(config.threshold, config.num_hashes)
    summary = {
        "files": len(files),
        "documents_in": funnel.documents("format"),
        "documents_kept": funnel.documents("quality", kept=True),
        **{f"removed_by_{step}": funnel.documents(step, kept=False) for step in steps.STEPS},
    }
    metrics = {
        "summary": summary,
        "records": dict(sorted(records.items())),
        # Banding alone finds a pair exactly at the threshold less than half of the time: the report says so.
        "dedup": {
            "bands": bands,
            "rows": rows,
            "catch_probability": {str(s): round(catch_probability(s, bands, rows), 3) for s in (0.6, 0.7, 0.8, 0.9)},
        },
        "classifiers": cards,
        "funnel": funnel.rows(),
    }
    kept = [steps.outputs(folder, "quality", source.index)[0] for source in files]
    return Result([*kept, folder / "funnel.json", folder / "records.json"], metrics)


def _first_pass_done(folder: Path, source: Source) -> bool:
    before = all(steps.is_done(folder, step, source.index) for step in ("format", "clean"))
    return before and steps.signatures_path(folder, source.index).is_file()


def _last_pass_done(folder: Path, source: Source) -> bool:
    return all(steps.is_done(folder, step, source.index) for step in ("dedup", "safe", "quality"))


def _labels_path(config: TextConfig, name: str) -> Path:
    labels = getattr(config.classifiers, name).labels
    return Path(labels) if labels else DATA / "labels" / f"{name}.jsonl"


def _side_inputs(config: TextConfig) -> dict[str, Path]:
    labels = {f"text.classifiers.{name}.labels": _labels_path(config, name) for name in NAMES}
    return _block_lists(config) | labels


def _block_lists(config: TextConfig) -> dict[str, Path]:
    return {
        "text.blocked_domains": steps.list_path(config.blocked_domains, "blocked_domains.txt"),
        "text.blocked_words": steps.list_path(config.blocked_words, "blocked_words.txt"),
    }


def _write_json(path: Path, value: Any) -> None:
    write_text_atomic(path, json.dumps(value, indent=1, ensure_ascii=False))
