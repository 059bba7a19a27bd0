"""A tiny alignment suite in OpenCompass's files, a model whose answers are known, judges whose verdicts are rules."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

CATEGORIES = ("数学计算", "逻辑推理", "基本任务", "中文理解", "综合问答", "文本写作", "角色扮演", "专业能力")
ARENAS = ("language", "knowledge", "reason_v2", "math_v2", "creationv2_zh")
# Words of the model's and of the other model's answer to question n: longer, shorter and, to the last, as long.
OURS, THEIRS = (3, 9, 5, 7, 2, 6), (6, 4, 8, 1, 9, 6)


def answer_to(who: str, number: int) -> str:
    return " ".join([who] * (OURS if who == "ours" else THEIRS)[number])


class Model:
    """Answers `... question N` with the words of that question."""

    def answer(self, prompt: str) -> str:
        numbers = re.findall(r"question (\d+)", prompt)
        return answer_to("ours", int(numbers[-1])) if numbers else "ours " * (len(prompt) % 7 + 1)


class Judge:
    """Answers `rule(kind, answers)`; kind: alpaca, arena, rating or align; answers: those in the prompt."""

    def __init__(self, rule: Callable[[str, list[str]], str]) -> None:
        self.rule = rule

    def answer(self, prompt: str) -> str:
        for kind, pattern in (
            ("alpaca", r'"output": "(.*?)"\n'),
            ("arena", r"\[回答\d开始\]\n(.*?)\n\[回答\d结束\]"),
            ("align", r"\[助手的答案开始\]\n(.*?)\n\[助手的答案结束\]"),
            ("rating", r"### Assistant A:\n(.*?)\n\n###|### User:\n.*?\n\n### Assistant A:\n(.*?)\n\n<\|"),
        ):
            if matches := re.findall(pattern, prompt, re.DOTALL):
                return self.rule(kind, ["".join(f) if isinstance(f, tuple) else f for f in matches])
        raise AssertionError(f"a judge was asked {prompt[-300:]!r}")


def verdict(kind: str, better: int) -> str:
    """1: the first, 2: the second, 0: neither (AlpacaEval knows no tie: it cannot be read)."""
    if kind == "alpaca":
        return {1: "m", 2: "M", 0: "both"}[better]
    return f"选择：{ {1: 'A', 2: 'B', 0: 'C'}[better] }\n原因：长度"


def longer(kind: str, answers: list[str]) -> str:
    """Comparisons: the longer answer; ratings: as many points as the last answer has words, 11 and more unread."""
    words = [len(answer.split()) for answer in answers]
    if kind == "rating":
        return f"It is long. Rating: [[{words[-1]}]]"
    if kind == "align":
        return f"很长。{{'事实正确性': 3, '综合得分': {words[-1]}}}"
    return verdict(kind, 0 if words[0] == words[1] else 1 if words[0] > words[1] else 2)


def first(kind: str, answers: list[str]) -> str:
    return "Rating: [[5]]" if kind == "rating" else "{'综合得分': 5}" if kind == "align" else verdict(kind, 1)


def write_suite(root: Path) -> None:
    """AlpacaEval with all six questions, CompassArena with a stretch of them a set, AlignBench with five in turn."""
    below = root / "data" / "subjective"
    questions = [_question(n, "helpful") for n in range(len(OURS))]
    _write(below / "alpaca_eval/alpaca_eval.json", questions)
    _write(below / "alpaca_eval/gpt4-turbo/alpaca_eval.json", _answers(range(len(OURS))))
    for number, name in enumerate(ARENAS):
        chosen = arena(number)
        _write(below / f"compass_arena/{name}.json", [_question(n, f"kind {n % 2}") for n in chosen])
        _write(below / f"compass_arena/gpt4-turbo/compassarena_{name}.json", _answers(chosen))
    folder = below / "alignment_bench"
    rated = [_question(n % 5, category) for n, category in enumerate(CATEGORIES)]
    _write(folder / "alignment_bench.json", rated)
    paths = {"dimension_set_filepath": "sets.json", "dimension_def_filepath": "defs.json"}
    _write(folder / "config/multi-dimension.json", {"Paths": paths | {"subcategory_mapping": "kinds.json"}})
    _write(folder / "config/sets.json", {"生成型": ["事实正确性"]})
    _write(folder / "config/defs.json", {"事实正确性": "对不对"})
    _write(folder / "config/kinds.json", {"杂": "生成型"})


def arena(number: int) -> range:
    return range(number % 3, number % 3 + 4)


def _question(number: int, capability: str) -> dict[str, Any]:
    others = {"subcategory": "杂", "reference": "yes"}
    return {"question": f"This is question {number}", "capability": capability, "others": others}


def _answers(numbers: range) -> dict[str, Any]:
    return {str(at): {"prediction": answer_to("theirs", n)} for at, n in enumerate(numbers)}


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
