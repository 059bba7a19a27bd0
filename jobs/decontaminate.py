"""Find kept documents that hold a benchmark item: `<run>/decontamination/removed-*.jsonl.zst`.

python jobs/decontaminate.py [--run-dir DIR] 'decontamination.benchmarks=[GLOB of .jsonl, .json, .csv, ...]'
"""

from typing import Any

from ilm_ray.config import Config
from ilm_ray.config.section import result_settings
from ilm_ray.run.stage import Context, Result, Stage
from jobs.frame.stages import run_job


def _settings(config: Config) -> dict[str, Any]:
    return result_settings(config.decontamination)


def _sources(config: Config) -> dict[str, str]:
    from ilm_ray.data.decontamination.pipeline import sources

    return sources(config)


def _work(context: Context) -> Result:
    from ilm_ray.data.decontamination.pipeline import decontaminate

    return decontaminate(context)


STAGE = Stage("decontamination", ("text", "code"), _settings, _work, _sources, reads=("decontamination",))

if __name__ == "__main__":
    run_job("decontaminate", [STAGE])
