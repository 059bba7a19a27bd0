"""Web text: WARC files -> filtered, deduplicated, safe documents in `<run>/text/quality`.

python jobs/web_text.py [--preset nano] [--run-dir DIR] [input='GLOB of WARC files'] [text.key=value ...]
"""

from ilm_ray.data.web.pipeline import run_text, settings, sources
from ilm_ray.run.stage import Stage
from jobs.frame.stages import run_job

STAGE = Stage(name="text", needs=(), settings=settings, work=run_text, sources=sources, reads=("input", "text"))

if __name__ == "__main__":
    run_job("web_text", [STAGE])
