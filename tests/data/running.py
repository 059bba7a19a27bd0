"""The text stage, as its job runs it."""

from pathlib import Path
from typing import Any

from ilm_ray.base.jsonl import read_jsonl
from ilm_ray.config import load_config, save_config
from ilm_ray.data.documents.document import IDS
from ilm_ray.data.documents.paths import STEPS
from ilm_ray.data.web import pipeline
from ilm_ray.run.journal import Journal
from ilm_ray.run.stage import Stage, run_stage

STAGE = Stage(name="text", needs=(), settings=pipeline.settings, work=pipeline.run_text, sources=pipeline.sources)


def run(folder: Path, *settings: str) -> Path:
    """`<folder>/text` of preset nano with `settings`."""
    folder.mkdir(exist_ok=True, parents=True)
    config = load_config("nano", None, list(settings))
    save_config(config, folder / "config.yaml")
    run_stage(STAGE, config, folder, Journal(folder / "journal.jsonl"))
    return folder / "text"


def rows_of(text: Path, step: str, outcome: str) -> list[dict[str, Any]]:
    """Rows of the documents that a step of a finished run "kept" or "removed", with ids as numbers."""
    place, chosen = STEPS.index(step), []
    for path in (*sorted(text.glob("*/removed-*.jsonl.zst")), *sorted((text / "final").glob("kept-*.jsonl.zst"))):
        for row in read_jsonl(path):
            fell = STEPS.index(row.get("drop_step", STEPS[-1])) + ("drop_step" not in row)
            if (fell > place) if outcome == "kept" else (fell == place):
                chosen.append(row | {name: int(row[name]) for name in IDS if name in row})
    return chosen
