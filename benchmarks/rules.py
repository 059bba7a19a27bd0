"""Clean at full speed: documents a second on one core, normalised, scored by every rule and judged.

Peer: the same rules as plain Python loops (benchmarks/plain_rules.py), on the same documents in the same run; the
scores must be equal. NeMo Curator gates its English heuristic filters at 19,000 documents/s on 128 CPUs: 148 a core.

    python benchmarks/rules.py [folder with books_en and books_zh]
"""

import json
import random
import re
import sys
import time
from pathlib import Path

from plain_rules import plain_scores

from ilm_ray.config.thresholds import RULES as TABLE
from ilm_ray.data.documents.scores import score_batch
from ilm_ray.data.web.clean.normalise import drop_chrome, normalise
from ilm_ray.data.web.clean.rules import first_failures

DATA = Path(__file__).resolve().parents[2] / "shared/data/text"
DOCUMENTS, SAMPLE, BATCH, ROUNDS = 2000, 60, 128, 5
GATE = 148  # documents/s and core


def books(folder: Path, language: str) -> str:
    """All books of a language as one text; random words where there are none."""
    paths = sorted((folder / f"books_{language}").glob("*.txt"))
    if paths:
        raws = [path.read_bytes() for path in paths]
        return "\n\n".join(_decoded(raw, "gb18030" if language == "zh" else "cp1252") for raw in raws)
    rng = random.Random(1)
    if language == "zh":
        return "".join(
            chr(rng.randrange(0x4E00, 0x5E00)) if rng.random() < 0.9 else rng.choice("，。\n") for _ in range(10**6)
        )
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 8))) for _ in range(5000)]
    return "\n\n".join(" ".join(rng.choices(words, k=60)) + "." for _ in range(20_000))


def documents(text: str, language: str) -> list[str]:
    """About 600 English words or 1,000 Chinese characters each, one paragraph a line, as pages are extracted."""
    lines = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n" if language == "en" else r"\n", text)]
    out: list[str] = []
    current: list[str] = []
    size = 0
    for line in filter(None, lines):
        current.append(line)
        size += len(line.split()) if language == "en" else len(line)
        if size >= (600 if language == "en" else 1000):
            out.append("\n".join(current))
            current, size = [], 0
    return (out * (1 + DOCUMENTS // len(out)))[:DOCUMENTS]


def judge(texts: list[str], language: str) -> int:
    """Documents that stay."""
    kept = 0
    for first in range(0, len(texts), BATCH):
        batch = [drop_chrome(normalise(text))[0] for text in texts[first : first + BATCH]]
        languages = [language] * len(batch)
        kept += sum(v is None for v in first_failures(score_batch(batch, languages), languages, TABLE))
    return kept


def measure(text: str, language: str) -> dict[str, float]:
    texts = documents(text, language)
    judge(texts[:BATCH], language)  # tables and kernels are there
    seconds = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        kept = judge(texts, language)
        seconds.append(time.process_time() - begin)
    best = min(seconds)
    sample = [normalise(each) for each in texts[:: len(texts) // SAMPLE]]
    begin = time.process_time()
    plain = [plain_scores(drop_chrome(normalise(each))[0], language) for each in sample]
    slow = (time.process_time() - begin) / len(sample)
    fast = score_batch([drop_chrome(each)[0] for each in sample], [language] * len(sample))
    assert all(fast[rule].tolist() == [scores[rule] for scores in plain] for rule in fast), "scores differ"
    size = sum(len(each.encode()) for each in texts)
    return {
        "documents_per_s": round(len(texts) / best),
        "mb_per_s": round(size / best / 1e6, 1),
        "bytes_per_document": round(size / len(texts)),
        "kept_share": round(kept / len(texts), 3),
        "plain_documents_per_s": round(1 / slow, 1),
        "times_plain": round(slow * len(texts) / best, 1),
        "times_gate": round(len(texts) / best / GATE, 1),
    }


def _decoded(raw: bytes, fallback: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode(fallback, "replace")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    figures = {language: measure(books(folder, language), language) for language in ("en", "zh")}
    for language, row in figures.items():
        print(
            f"{language}: {row['documents_per_s']:,} documents/s, {row['mb_per_s']} MB/s on one core "
            f"({row['bytes_per_document']:,} bytes each); plain loops {row['plain_documents_per_s']}/s: "
            f"{row['times_plain']} times; Curator's gate {GATE}: {row['times_gate']} times"
        )
    print(json.dumps({"benchmark": "rules", **figures}))


if __name__ == "__main__":
    main()
