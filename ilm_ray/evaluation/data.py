"""Benchmarks as their authors publish them -> the folder `data/` that OpenCompass reads."""

import gzip
import itertools
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic

FLORES_SENTENCES = 100  # a pair of languages, as the report takes them
# Folders and files that only need another place: below the published folder -> below data/.
COPIED = {
    "mmlu/dev": "mmlu/dev",
    "mmlu/test": "mmlu/test",
    "cmmlu/dev": "cmmlu/dev",
    "cmmlu/test": "cmmlu/test",
    "agieval": "AGIEval/data/v1",
    "bbh/bbh": "BBH/data",
    "gsm8k/test.jsonl": "gsm8k/test.jsonl",
    "humaneval_x": "humanevalx",
    "theoremqa/theoremqa_test.json": "TheoremQA/theoremqa_test.json",
    "nq_open/NQ-open.dev.jsonl": "nq-open/nq-open-validation.jsonl",
}
# Temperature -> categories, as FastChat asks them (fastchat/llm_judge/common.py).
MT_BENCH = {
    "0.0": ("extraction", "math", "coding", "reasoning"),
    "0.1": ("stem", "humanities"),
    "0.7": ("writing", "roleplay"),
}
_EMPTY = ("assistant", "")  # the model fills it
UNPACKED = {
    "gsm8k/train.jsonl.gz": "gsm8k/train.jsonl",
    "humaneval/HumanEval.jsonl.gz": "humaneval/human-eval-v2-20210705.jsonl",
}


def write_data(published: Path, root: Path) -> list[Path]:
    """Copy and convert the known benchmarks of `published` into `root/data`; the paths written.

    Raises UserError where `published` holds no known benchmark, or a file cannot be read or written.
    """
    data = root / "data"
    try:
        written = [
            *(_copy(published / source, data / target) for source, target in COPIED.items()),
            *(_unpack(published / source, data / target) for source, target in UNPACKED.items()),
            _c3(published / "c3", data / "CLUE/C3/dev_0.json"),
            _mbpp(published / "mbpp_sanitized/sanitized-mbpp.json", data / "mbpp/sanitized-mbpp.jsonl"),
            _winogrande(published / "llm_foundry_qa/winogrande.jsonl", data / "winogrande/dev.jsonl"),
            *_mt_bench(published / "mt_bench", data / "subjective/mtbench"),
            *(_flores(path, data) for path in sorted((published / "flores200").glob("dev*/*.dev*"))),
            *(
                _copy(path, data / "leval" / path.stem / "test.jsonl")
                for path in sorted(published.glob("leval/*/*.jsonl"))
            ),
        ]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot convert {published} into {data} ({error}); is it what the authors publish?") from None
    paths = [path for path in written if path is not None]
    if not paths:
        raise UserError(f"{published} holds none of {', '.join(sorted(COPIED))}; see docs/evaluation.md for the names")
    return paths


def winogrande_row(row: dict[str, Any]) -> dict[str, str]:
    """A row of {context_options, continuation, gold}, where each context ends with an option -> one with a blank.

    Words that both options begin with stay in the sentence: the text with the blank filled in is the same.
    """
    first, second = row["context_options"]
    shared = "".join(
        a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    )
    shared = shared[: shared.rfind(" ") + 1]
    return {
        "sentence": f"{shared}_ {row['continuation']}",
        "option1": first.removeprefix(shared),
        "option2": second.removeprefix(shared),
        "answer": str(row["gold"] + 1),
    }


def _copy(source: Path, target: Path) -> Path | None:
    if not source.exists():
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)
    return target


def _unpack(source: Path, target: Path) -> Path | None:
    return _write(target, gzip.decompress(source.read_bytes()).decode()) if source.exists() else None


def _c3(folder: Path, target: Path) -> Path | None:
    """The dialogues and the mixed texts are published apart."""
    parts = [folder / name for name in ("c3-m-dev.json", "c3-d-dev.json")]
    if not all(part.exists() for part in parts):
        return None
    rows = [row for part in parts for row in json.loads(part.read_text(encoding="utf-8"))]
    return _write(target, json.dumps(rows, ensure_ascii=False))


def _mbpp(source: Path, target: Path) -> Path | None:
    return _write(target, _lines(json.loads(source.read_text(encoding="utf-8")))) if source.exists() else None


def _winogrande(source: Path, target: Path) -> Path | None:
    if not source.exists():
        return None
    rows = map(json.loads, source.read_text(encoding="utf-8").splitlines())
    return _write(target, _lines(map(winogrande_row, rows)))


def _flores(source: Path, data: Path) -> Path:
    sentences = source.read_text(encoding="utf-8").split("\n")[:FLORES_SENTENCES]
    return _write(data / "flores_first100" / source.parent.name / source.name, "\n".join(sentences) + "\n")


def mt_bench_row(question: dict[str, Any], reference: list[str]) -> dict[str, Any]:
    """{question_id, category, turns} and a reference answer a turn, if there are any -> OpenCompass's dialogue."""
    turns = [{"role": role, "content": text} for ask in question["turns"] for role, text in (("user", ask), _EMPTY)]
    others = {"question_id": question["question_id"], "reference": reference}
    return {"dialogue": turns, "capability": question["category"], "others": others}


def _mt_bench(folder: Path, target: Path) -> list[Path]:
    """One file for each temperature at which a category is answered."""
    question_file, reference_file = folder / "question.jsonl", folder / "reference_answer_gpt-4.jsonl"
    if not (question_file.exists() and reference_file.exists()):
        return []
    answers = {row["question_id"]: row["choices"][0]["turns"] for row in _read_lines(reference_file)}
    questions = _read_lines(question_file)
    written = []
    for temperature, categories in MT_BENCH.items():
        chosen = [q for q in questions if q["category"] in categories]
        rows = [mt_bench_row(q, answers.get(q["question_id"], [])) for q in chosen]
        path = target / f"mtbench_{temperature}.json"
        written.append(_write(path, json.dumps(rows, ensure_ascii=False, indent=1)))
    return written


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write(target: Path, text: str) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(target, text)
    return target
