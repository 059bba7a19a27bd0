"""Hash every file of every stage and every local checkpoint of a run, and compare with the manifests.

    python jobs/verify.py --run-dir DIR

One line a stage: ok, or the damaged files, and whether its inputs are still those that it was made from. Needs no Ray
and changes nothing. Exit codes: 0 all whole, 2 something is not, 1 anything else.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from jobs.frame.command import Parser, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Verify the run, print the JSON line, return the exit code."""

    def work(summary: dict[str, Any]) -> None:
        from ilm_ray.run.rundata import read_manifests
        from ilm_ray.run.whole import damage

        parser = Parser(prog="jobs/verify.py", description="Hash every file of a run.")
        parser.add_argument("--run-dir", type=Path, required=True, help="folder of a run")
        run_dir = parser.parse_args(argv).run_dir.absolute()
        stages = read_manifests(run_dir)
        if not stages:
            raise UserError(f"{run_dir} has no finished stage; give the --run-dir of a run")
        wrong = dict[str, list[str]]()
        for name, manifest in stages.items():
            found = [f"{file} {phrase}" for file, phrase in damage(run_dir / name, manifest.files).items()]
            found += [
                f"input '{other}' is no longer what it was made from"
                for other, fingerprint in manifest.inputs.items()
                if other in stages and stages[other].fingerprint != fingerprint
            ]
            found += _checkpoints(run_dir / name / "checkpoints")
            size = sum(file["bytes"] for file in manifest.files.values()) / 2**20
            print(f"{name:<16} {len(manifest.files):>8} files {size:>12.1f} MiB  {'; '.join(found[:5]) or 'ok'}")
            if found:
                wrong[name] = found
        summary |= {"run_dir": str(run_dir), "stages": len(stages), "wrong": wrong}
        if wrong:
            first = next(iter(wrong))
            raise UserError(
                f"{run_dir}: {', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} not whole ({first}: "
                f"{wrong[first][0]}); delete what is damaged and run its stage again, or bring it back from a copy"
            )

    return run_command("verify", work)


def _checkpoints(folder: Path) -> list[str]:
    """Damaged parts of the local checkpoints of a stage."""
    from ilm_ray.alignment.ppo import checkpoint_record as records
    from ilm_ray.training.checkpoints import commit

    found = [f"{path.name}: {phrase}" for path in commit.committed(folder) for phrase in commit.verify(path)]
    return found + [f"{path.name}: {phrase}" for path in records.committed(folder) for phrase in records.damage(path)]


if __name__ == "__main__":
    sys.exit(main())
