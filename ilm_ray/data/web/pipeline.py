"""The web text stage on Ray Data: WARC files -> `final/kept-NNNNN.jsonl.zst` (report section 3.1).

Every file goes through `BEFORE_DEDUP`; the shuffles of `dedup/pipeline.py` find duplicates, in earlier runs too; then
every file goes through `AFTER_DEDUP`. Ray Data carries file names; documents stay in the files, and each of the two
passes writes a document once.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.base.jsonl import write_jsonl
from ilm_ray.base.places import located, place_in_tree
from ilm_ray.config import Config
from ilm_ray.config.data import ClassifierConfig, TextConfig
from ilm_ray.config.named_data import stage_off
from ilm_ray.config.section import result_settings
from ilm_ray.data.dedup.components import Drops
from ilm_ray.data.dedup.drops import save_drops
from ilm_ray.data.dedup.minhash import bands_and_rows, catch_probability
from ilm_ray.data.dedup.pipeline import Signed, find_duplicates
from ilm_ray.data.documents import paths
from ilm_ray.data.documents.funnel import Funnel
from ilm_ray.data.documents.passes import FileTask, Step, run_pass
from ilm_ray.data.documents.sources import ROW_BITS, Source, find_sources, jsonable
from ilm_ray.data.web import steps
from ilm_ray.data.web.classifiers import NAMES
from ilm_ray.data.web.classifiers.model import check_classifier, provide
from ilm_ray.data.web.clean.rules import read_rule
from ilm_ray.data.web.format.inputs import fingerprint, path_fingerprint
from ilm_ray.data.web.previous import FinishedRun, finished_runs, replaced
from ilm_ray.data.web.safe.blocklist import Domains, read_words
from ilm_ray.run.metrics import DOCUMENTS, counter
from ilm_ray.run.progress import Progress
from ilm_ray.run.stage import Context, Result

# A partition of the shuffles is a process to start: 16 files of a crawl are some 130,000 documents, whose signatures
# take 70 MB.
FILES_PER_PARTITION = 16

BEFORE_DEDUP: dict[str, Step] = {"format": steps.format_file, "clean": steps.clean, "sign": steps.sign}
AFTER_DEDUP: dict[str, Step] = {"dedup": steps.drop_duplicates, "safe": steps.safe, "quality": steps.quality}
PASSES = {paths.CLEANED: BEFORE_DEDUP, paths.FINAL: AFTER_DEDUP}


def settings(config: Config) -> dict[str, Any]:
    """Settings that the result depends on. Named files and earlier runs count by their content, see `sources`."""
    # A mapping's order is no part of a fingerprint, and the first rule that fails is the one that is recorded.
    tables = {"": config.text, **{name: config.text.for_source(name) for name in config.text.sources}}
    order = {name: {code: list(table) for code, table in text.rules.items()} for name, text in tables.items()}
    return {"seed": config.seed, "text": result_settings(config.text), "rule_order": order}


def sources(config: Config) -> dict[str, str]:
    """Fingerprints of everything read from outside. Raises UserError where one is missing or none is an archive."""
    files = find_sources(config.input, config.text)
    archives = {file: fingerprint(file) for source in files for file in source.files()}
    if not any(readable for _, readable in archives.values()):
        raise UserError(
            f"no file of input={config.input} is a web archive (WARC, ARC or WACZ); give a glob of archives"
        )
    fingerprints = {f"file {place_in_tree(source.path)}": print_of for source, (print_of, _) in archives.items()}
    fingerprints |= {f"previous {run.folder.parent}": run.fingerprint for run in finished_runs(config.text, files)}
    for name, place in config.text.own_rules.items():
        file = located(place)
        fingerprints[f"text.own_rules.{name}"] = path_fingerprint(Path(file), f"text.own_rules.{name}")
        read_rule(name, file)
    lists = _block_lists(config.text)
    for name, path in lists.items():
        fingerprints[name] = path_fingerprint(path, name)
    # A wrong list, label file or model is found before hours of work, not after.
    if "text.blocked_domains" in lists:
        Domains.read(lists["text.blocked_domains"])
    if "text.blocked_words" in lists:
        read_words(lists["text.blocked_words"])
    for name, classifier in _classifiers(config.text).items():
        key = f"text.classifiers.{name}.{'model' if classifier.model else 'labels'}"
        fingerprints[key] = path_fingerprint(check_classifier(classifier), key)
    return fingerprints


def run_text(context: Context) -> Result:
    """All five steps; files that an earlier, killed run finished are not touched again."""
    folder = context.folder
    config = steps.copy_own_rules(folder, context.config.text)
    files = find_sources(context.config.input, config)
    earlier = finished_runs(config, files)
    paths.write_sources(folder, files)
    progress = Progress("text", 2 * len(files), every_s=3.0)
    first = [f for f in files if not _first_pass_done(folder, f)]
    progress.update(len(files) - len(first))
    documents = 0
    for done, counts in enumerate(_each_file(first, paths.CLEANED, folder, config), len(files) - len(first)):
        documents += sum(counts["format"].values())
        progress.update(done + 1, documents_in=documents)
    if not all(paths.drops_path(folder, f.index).is_file() for f in files):
        _dedup(folder, files, earlier, config)
    cards = {
        name: provide(name, classifier, paths.model_path(folder, name), context.config.seed)
        for name, classifier in _classifiers(config).items()
    }
    steps.write_block_lists(folder, config)
    last = [f for f in files if not paths.is_done(folder, paths.FINAL, f.index)]
    documents = 0
    # A BERT-style model is loaded in seconds and wants a GPU: then actors keep it.
    bert = any(card["kind"] == "bert" for card in cards.values())
    finished = _each_file(last, paths.FINAL, folder, config, on_actors=bert)
    for done, counts in enumerate(finished, 2 * len(files) - len(last)):
        documents += counts["quality"]["kept"]
        progress.update(done + 1, documents_kept=documents)
    result = _result(folder, files, config, cards)
    return Result(result.files, result.metrics | {"off": stage_off(context.config, "text")})


class FilePass:
    """A pass over one file after the other; as Ray Data actors it keeps the models that its steps load.

    Its only effect is its files, so it may run twice on one.
    """

    def __init__(self, name: str, folder: Path, config: TextConfig) -> None:
        self.name, self.folder, self.config = name, folder, config

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        source = Source(**row)
        run_pass(self.name, PASSES[self.name], FileTask(source, self.folder, self.config.for_source(source.source)))
        counts = {
            step: paths.kept_and_removed(self.folder, self.name, source.index, step)
            for step in paths.STEPS_OF[self.name]
        }
        return {"counts": json.dumps(counts)}


def _each_file(
    files: list[Source], name: str, folder: Path, config: TextConfig, on_actors: bool = False
) -> Iterator[dict[str, dict[str, int]]]:
    """Run the pass on every file, one task a file; yields the counts that each step kept and removed of a finished
    file.

    The live metrics are counted here, where a file arrives once.
    """
    if not files:
        return
    rows = ray.data.from_items([jsonable(f) for f in files], override_num_blocks=len(files))
    if on_actors:
        size = min(len(files), max(1, int(ray.cluster_resources().get("CPU", 1))))
        rows = rows.map(
            FilePass,
            fn_constructor_args=(name, folder, config),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=size),
            num_gpus=min(1.0, ray.cluster_resources().get("GPU", 0) / size),
        )
    else:

        def run(row: dict[str, Any]) -> dict[str, Any]:
            return FilePass(name, folder, config)(row)

        run.__name__ = "_".join(("text", *PASSES[name]))  # what Ray shows: `Map(text_format_clean_sign)`
        rows = rows.map(run)
    for row in rows.iter_rows():
        counts: dict[str, dict[str, int]] = json.loads(row["counts"])
        for step, outcomes in counts.items():
            for outcome, documents in outcomes.items():
                if documents:  # Ray refuses to count by nothing
                    counter(DOCUMENTS).inc(documents, tags={"stage": f"text/{step}", "outcome": outcome})
        yield counts


def _dedup(folder: Path, files: list[Source], earlier: list[FinishedRun], config: TextConfig) -> None:
    """One drop list a file, so that its reader needs no join; and the documents that fall in earlier runs."""
    signed = [Signed(str(paths.signatures_path(folder, f.index)), f.key) for f in files]
    signed += [Signed(str(path), source.key) for run in earlier for path, source in run.signatures()]
    threshold = config.threshold if config.verify else None
    partitions = config.shuffle_partitions or 1 + len(signed) // FILES_PER_PARTITION
    drops = find_duplicates(signed, folder / "dedup", partitions, threshold)
    _write_replaced(folder, earlier, drops)
    keys = drops.ids >> np.uint64(ROW_BITS)
    for source in files:
        save_drops(paths.drops_path(folder, source.index), drops.part(keys == np.uint64(source.key)))


def _write_replaced(folder: Path, earlier: list[FinishedRun], drops: Drops) -> None:
    write_jsonl(paths.replaced_path(folder), (row for run in earlier for row in replaced(run, earlier, drops)))


def _result(folder: Path, files: list[Source], config: TextConfig, cards: dict[str, Any]) -> Result:
    funnel, records, by_file = Funnel(), Counter[str](), []
    for source in files:
        for name in PASSES:
            stats = paths.read_stats(folder, name, source.index)
            funnel.merge(stats["funnel"])
            if name == paths.CLEANED:
                records.update(stats["records"])
                more = {"and_files": len(source.files()) - 1} if source.more else {}
                by_file.append({"file": source.path, "dump": source.dump, "records": stats["records"]} | more)
    _write_json(folder / "funnel.json", funnel.rows())
    _write_json(folder / "records.json", dict(sorted(records.items())))
    write_jsonl(folder / "files.jsonl.zst", by_file)
    import pandas as pd

    pd.DataFrame(funnel.rows()).to_csv(folder / "funnel.csv", index=False)  # for a person's own tables
    bands, rows = bands_and_rows(config.threshold, config.num_hashes)
    summary = {
        "files": len(files),
        "documents_in": funnel.documents("format"),
        "documents_kept": funnel.documents("quality", kept=True),
        **{f"removed_by_{step}": funnel.documents(step, kept=False) for step in paths.STEPS},
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
    kept = [paths.outputs(folder, paths.FINAL, source.index)[0] for source in files]
    about = [folder / name for name in ("funnel.json", "records.json", "files.jsonl.zst")]
    about.append(paths.replaced_path(folder))
    return Result([*kept, *about], metrics)


def _first_pass_done(folder: Path, source: Source) -> bool:
    return paths.is_done(folder, paths.CLEANED, source.index) and paths.signatures_path(folder, source.index).is_file()


def _classifiers(config: TextConfig) -> dict[str, ClassifierConfig]:
    """Those that are on."""
    return {name: each for name in NAMES if (each := getattr(config.classifiers, name)).named}


def _block_lists(config: TextConfig) -> dict[str, Path]:
    """Those that are named."""
    lists = {"text.blocked_domains": config.blocked_domains, "text.blocked_words": config.blocked_words}
    return {name: Path(located(path)) for name, path in lists.items() if path is not None}


def _write_json(path: Path, value: Any) -> None:
    write_text_atomic(path, json.dumps(value, indent=1, ensure_ascii=False))
