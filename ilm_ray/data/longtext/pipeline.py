"""The long_text stage on Ray Data: which documents are long and make sense, and the marks that the mixture reads.

`find_long` takes one task a kept file: length, then statistics. The texts that pass lie in parts for the scoring model
(`actors/perplexity.py`); `mark_long` joins its differences, judges them, and writes one boolean array a token shard. A
file is found once and marked once, and a part scored once, through any kill.
"""

import functools
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray

from ilm_ray.base.files import write_text_atomic
from ilm_ray.base.jsonl import JsonObject
from ilm_ray.data.documents.paths import FINAL
from ilm_ray.data.longtext.steps import CODE, KEPT, STEPS, KeptFile, Settings, find_file, mark_file
from ilm_ray.data.longtext.thresholds import read_thresholds
from ilm_ray.run.metrics import DOCUMENTS, counter
from ilm_ray.run.progress import Progress
from ilm_ray.run.stage import Context, Result

Step = Callable[[KeptFile, Settings], dict[str, Any]]


def find_long(context: Context) -> list[Path]:
    """Score every long document of the run by its statistics; the parts that are to be scored by a model, in order."""
    receipts = _each_file(context, find_file)
    names = [f"{name}-{part:05d}.jsonl.zst" for name, receipt in receipts.items() for part in range(receipt["parts"])]
    return [context.folder / "candidates" / name for name in names]


def mark_long(context: Context, scorer: JsonObject) -> Result:
    """Judge the scored documents; write kept and removed rows, marks and funnel. scorer: figures of the model."""
    counts, files = Counter[tuple[str, ...]](), [context.folder / "funnel.json"]
    for receipt in _each_file(context, mark_file).values():
        counts.update({tuple(key): value for *key, value in receipt["counts"]})
        files += [context.folder / name for name in receipt["files"]]
    funnel = _funnel(counts)
    write_text_atomic(files[0], json.dumps(funnel, indent=1))
    for row in funnel:
        outcome = "kept" if row["rule"] == KEPT else "removed"
        counter(DOCUMENTS).inc(row["documents"], tags={"stage": f"long_text/{row['step']}", "outcome": outcome})

    def total(unit: str, step: str, kept: bool | None = None) -> int:
        return sum(r[unit] for r in funnel if r["step"] == step and (kept is None or (r["rule"] == KEPT) == kept))

    shutil.rmtree(context.folder / "candidates", ignore_errors=True)  # these texts are those of the kept files
    length, *_, last = STEPS
    summary = {
        "documents": total("documents", length),
        "long": total("documents", length, kept=True),
        **{f"removed_by_{step}": total("documents", step, kept=False) for step in STEPS[1:]},
        "kept": total("documents", last, kept=True),
        "kept_bytes": total("bytes", last, kept=True),
    }
    return Result(files, {"summary": summary, "scorer": scorer, "funnel": funnel})


def _funnel(counts: Counter[tuple[str, ...]]) -> list[JsonObject]:
    """Documents and bytes per step, rule, domain and token source."""
    keys = sorted({key[:-1] for key in counts}, key=lambda key: (STEPS.index(key[0]), *key[1:]))
    names = ("step", "rule", "domain", "source")
    return [
        dict(zip(names, key, strict=True)) | {unit: counts[*key, unit] for unit in ("documents", "bytes")}
        for key in keys
    ]


def _each_file(context: Context, work: Step) -> dict[str, Any]:
    """`work` on every kept file that has no receipt of it yet, one task a file; name -> receipt of all."""
    folders = (("text", context.of("text") / FINAL), (CODE, context.of(CODE)))
    files = [
        KeptFile(str(path), stage, number)
        for stage, folder in folders
        for number, path in enumerate(sorted(folder.glob("kept-*.jsonl.zst")))
    ]
    config = context.config
    settings = Settings(
        str(context.of("tokens")),
        str(context.folder),
        config.long_text.min_bytes,
        tuple(config.text.sources),
        read_thresholds(config.long_text.thresholds),
    )
    receipts = {file.name: _receipt(context.folder / "receipts", work, file) for file in files}
    left = [file for file in files if not receipts[file.name].exists()]
    progress = Progress(f"long_text: {work.__name__}", len(files), done=len(files) - len(left))
    if left:
        run = functools.partial(_with_receipt, work=work, settings=settings, receipts=str(context.folder / "receipts"))
        rows = ray.data.from_items([asdict(file) for file in left], override_num_blocks=len(left)).map(run)
        for done, _ in enumerate(rows.iter_rows(), len(files) - len(left) + 1):
            progress.update(done)
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in receipts.items()}


def _with_receipt(item: JsonObject, work: Step, settings: Settings, receipts: str) -> JsonObject:
    file = KeptFile(**item)
    record = work(file, settings)
    receipt = _receipt(Path(receipts), work, file)
    receipt.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(receipt, json.dumps(record))
    return {"file": file.name}


def _receipt(folder: Path, work: Step, file: KeptFile) -> Path:
    return folder / f"{work.__name__}-{file.name}.json"
