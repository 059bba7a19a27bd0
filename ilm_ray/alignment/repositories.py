"""The code stage's fine-tuning form as token shards for SFT (report section 4.4): repositories, depth first, prompted.

Pre-training does not read them. A document falls where decontamination removed one of the same repository that holds a
file of it: the two forms share their files, not their documents.
"""

import functools
from pathlib import Path
from typing import Any

from ilm_ray.base.jsonl import read_jsonl, utf8_bytes
from ilm_ray.data.documents.pipeline import run_tasks
from ilm_ray.data.tokenizer.opening import open_tokenizer
from ilm_ray.data.tokens.pipeline import CODE, decontaminated
from ilm_ray.data.tokens.shards import DOCUMENTS, ShardWriter, TokenSource

SOURCE = "repositories"  # its name in the mixture
FORM = "finetuning-*.jsonl.zst"

_Files = frozenset[tuple[str, str]]  # (repository, path)


def open_repositories(run_dir: Path) -> TokenSource | None:
    """The shards that `tokenize_repositories` wrote in the run; None where they hold no token."""
    source = TokenSource(run_dir / "sft" / SOURCE)
    return source if source.total_tokens else None


def tokenize_repositories(run_dir: Path) -> list[Path]:
    """Write shards of the run's repositories into `<run>/sft/repositories`, one an input file; returns their files.

    A file whose shard is there is not done again.
    """
    folder, code = run_dir / "sft" / SOURCE, run_dir / "code"
    fallen = _fallen_files(code, decontaminated(run_dir / "decontamination")[CODE])
    items = [{"path": str(path), "number": number} for number, path in enumerate(sorted(code.glob(FORM)))]
    work = functools.partial(_tokenize, folder=str(folder), tokenizer=str(run_dir / "tokenizer"), fallen=fallen)
    for _ in run_tasks(items, work):
        pass
    return sorted(path for path in folder.glob("shard-*") if path.is_file())


def _fallen_files(code: Path, removed: frozenset[int]) -> _Files:
    """The files in the documents of the pre-training form that decontamination removed."""
    fallen = set[tuple[str, str]]()
    for path in sorted(code.glob("kept-*.jsonl.zst")) if removed else []:
        for row in read_jsonl(path):
            if int(row["id"]) in removed:
                fallen |= {(row["repository"], file["path"]) for file in row["files"]}
    return frozenset(fallen)


def _tokenize(item: dict[str, Any], folder: str, tokenizer: str, fallen: _Files) -> dict[str, Any]:
    if (Path(folder) / f"shard-{item['number']:05d}{DOCUMENTS}").exists():
        return {}
    encoder = open_tokenizer(Path(tokenizer))
    with ShardWriter(Path(folder), item["number"]) as shard:
        for row in read_jsonl(Path(item["path"])):
            if any((row["repository"], file["path"]) in fallen for file in row["files"]):
                continue
            about = {name: row[name] for name in ("url", "dump", "repository", "files")} | {"id": int(row["id"])}
            shard.add(encoder.encode_document(row["text"]), utf8_bytes(row["text"]), about)
    return {}
