"""The text stage, as its job runs it."""

from pathlib import Path

from ilm_ray.config import load_config, save_config
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
