"""`ilm JOB [arguments]`, after `pip install`, or `python -m jobs JOB [arguments]`: as `python jobs/JOB.py [arguments]`.

Without a job it lists them.
"""

import ast
import difflib
import pkgutil
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent


def docstrings() -> dict[str, str]:
    """Job -> the docstring of its module; nothing is imported."""
    names = sorted(m.name for m in pkgutil.iter_modules([str(FOLDER)]) if not m.ispkg and not m.name.startswith("_"))
    trees = {name: ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8")) for name in names}
    return {name: ast.get_docstring(tree) or "" for name, tree in trees.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job that the first argument names, in this process; exit code 2 where there is no such job."""
    words = list(sys.argv[1:] if argv is None else argv)
    known = docstrings()
    if not words or words[0] in ("-h", "--help"):
        print("ilm JOB [arguments]; `ilm JOB --help` says more\n")
        print("\n".join(f"  {name:18} {about.splitlines()[0]}" for name, about in known.items()))
        return 0
    if words[0] not in known:
        near = difflib.get_close_matches(words[0], known, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        print(f"ilm: there is no job '{words[0]}'; {meant}`ilm` lists them", file=sys.stderr)
        return 2
    sys.argv = [f"ilm {words[0]}", *words[1:]]
    runpy.run_module(f"jobs.{words[0]}", run_name="__main__", alter_sys=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
