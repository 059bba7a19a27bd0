"""Turn WARC files into filtered, deduplicated, safe documents: `<run>/text/final`.

python jobs/web_text.py [--preset nano] [--run-dir DIR] input='GLOB of WARC files' [key.sub=value ...]
"""

from typing import Any

from ilm_ray.config import Config
from ilm_ray.run.stage import Context, Result, Stage
from jobs.frame.stages import run_job


def _settings(config: Config) -> dict[str, Any]:
    from ilm_ray.data.web.pipeline import settings

    return settings(config)


def _sources(config: Config) -> dict[str, str]:
    from ilm_ray.data.web.pipeline import sources

    return sources(config)


def _work(context: Context) -> Result:
    from ilm_ray.data.web.pipeline import run_text

    return run_text(context)


STAGE = Stage("text", (), _settings, _work, _sources, reads=("input", "text"))

if __name__ == "__main__":
    run_job("web_text", [STAGE])
