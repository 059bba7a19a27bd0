"""Export the documents of a data stage as Parquet, in the layout of Hugging Face data sets. Needs no Ray.

    python jobs/export_documents.py --run-dir DIR --stage text|code --out FOLDER_OR_URL

FOLDER_OR_URL: a folder, `s3://bucket/name`, or another place that fsspec writes. Each file appears whole; the same
command again writes those that are missing. The layout is that of `datasets.load_dataset(FOLDER)`; a run reads the
files by `text.sources.NAME.input`. Exit codes as for every job: 0 done, 2 bad input, 1 anything else.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from jobs.frame.command import Parser, run_command

KEPT = {"text": "final", "code": ""}  # the folder of a stage's kept documents


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files, print the JSON line, return the exit code."""

    def work(summary: dict[str, Any]) -> None:
        from ilm_ray.data.documents.export import write_dataset
        from ilm_ray.run.progress import Progress
        from ilm_ray.run.rundata import read_manifests

        parser = Parser(prog="jobs/export_documents.py", description="Documents of a stage as Parquet.")
        parser.add_argument("--run-dir", type=Path, required=True, help="folder of a run")
        parser.add_argument("--stage", choices=KEPT, default="text", help="whose documents (default text)")
        parser.add_argument("--out", required=True, help="folder or URL that gets the files")
        a = parser.parse_args(argv)
        manifest = read_manifests(a.run_dir).get(a.stage)
        if manifest is None:
            raise UserError(f"{a.run_dir} has no finished stage '{a.stage}'; run it first, or give another --run-dir")
        files = sorted((a.run_dir / a.stage / KEPT[a.stage]).glob("kept-*.jsonl.zst"))
        progress = Progress("export", len(files))
        try:
            summary |= {"out": a.out, **write_dataset(files, a.out, a.stage, manifest.fingerprint, progress.update)}
        except (OSError, ImportError) as error:
            raise UserError(f"--out={a.out} cannot be written: {error}") from None

    return run_command("export_documents", work)


if __name__ == "__main__":
    sys.exit(main())
