"""Writes docs/jobs.md from the jobs' docstrings: python docs/jobs_page.py > docs/jobs.md"""

import ast
import sys
from pathlib import Path

from jobs.__main__ import docstrings

ROOT = Path(__file__).parents[1]
HEAD = """# Jobs

This page is `python docs/jobs_page.py`: the docstring of each job. `--help` behind a job adds the settings that it
reads, with their values. After `pip install .` the same job is `ilm JOB`; on a cluster `ray job submit --working-dir .
--` goes before the command.

A job shows progress with an ETA on stderr; its last line on stdout is one JSON object. Exit code 0: done. 2: bad input
or configuration, one line says what, where and what to do. 143: stopped by Ctrl-C or SIGTERM, the same command goes on
from there. 1: anything else, with the place of the evidence. A finished stage is skipped; a killed one goes on from its
partial results. A run folder keeps its settings: a later job needs no `--preset`.
"""


def road() -> list[str]:
    """Names of the jobs of the pipeline's stages, in order."""
    tree = ast.parse((ROOT / "jobs/pipeline.py").read_text(encoding="utf-8"))
    (modules,) = (node for node in ast.walk(tree) if isinstance(node, ast.Tuple) and len(node.elts) > 3)
    return ["pipeline", "base", *(element.id for element in modules.elts if isinstance(element, ast.Name))]


def page() -> str:
    """The whole page: stages in the road's order, then tools."""
    known, stages = docstrings(), road()
    parts = [HEAD, "| job | |", "|---|---|"]
    names = [*stages, *(name for name in known if name not in stages)]
    parts += [f"| [`{name}`](#{name}) | {known[name].partition(chr(10))[0]} |" for name in names]
    for title, chosen in (("The road", stages), ("Tools", names[len(stages) :])):
        parts.append(f"\n# {title}")
        for name in chosen:
            parts.append(f"\n## {name}\n\n{known[name].strip()}")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
