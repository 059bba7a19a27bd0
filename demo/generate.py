"""Writes the demo corpus: `python -m demo.generate [OUT]` (default: the folder shipped with the package).

Everything follows from `SEED`, so a second run writes the same bytes.
"""

import csv
import io
import json
import random
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from demo import DATA, benchmark_items, dialogues, labels, lists
from demo.crawl import Truth, crawl

SEED = 20240312


def _jsonl(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")


def _truth_csv(truths: Iterable[Truth]) -> bytes:
    out = io.StringIO()
    sheet = csv.writer(out, lineterminator="\n")
    sheet.writerow(("url", "dump", "file", "kind", "group"))
    sheet.writerows((t.url, t.dump, t.file, t.kind, t.group) for t in truths)
    return out.getvalue().encode("utf-8")


def build(seed: int = SEED) -> dict[str, bytes]:
    """Every file of the corpus by its path below the data folder."""
    warcs, truths = crawl(seed)
    files = {f"web/{name}": data for name, data in warcs.items()}
    files["truth.csv"] = _truth_csv(truths)
    files |= {f"benchmarks/{name}": data for name, data in benchmark_items.files().items()}
    for name in labels.CLASSES:
        files[f"labels/{name}.jsonl"] = _jsonl(labels.rows(seed, name))
    domains = lists.blocked_domains(random.Random(seed))
    files["lists/blocked_domains.txt"] = ("\n".join(domains) + "\n").encode("utf-8")
    files["lists/blocked_words.txt"] = ("\n".join(lists.blocked_words()) + "\n").encode("utf-8")
    files["chat.jsonl"] = _jsonl(dialogues.chat(seed))
    files["preferences.jsonl"] = _jsonl(dialogues.preferences(seed))
    files["prompts.jsonl"] = _jsonl(dialogues.prompts(seed))
    return files


def write(out: Path, seed: int = SEED) -> list[Path]:
    """Write the corpus below `out` and return the paths written."""
    paths: list[Path] = []
    for name, data in build(seed).items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        paths.append(path)
    return paths


def main() -> None:
    """Command line entry: one line per file."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    for path in write(out):
        print(f"{path.stat().st_size:>9} {path}")


if __name__ == "__main__":
    main()
