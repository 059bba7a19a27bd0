"""The whole chain, prompt to table, with the real OpenCompass: a model that knows the answers scores 100, one that
guesses scores what chance gives."""

import csv
import json
import math
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.evaluator import EvaluationError, ModelUnderTest, SetOf, plan_sets, run_sets
from ilm_ray.data.tokenizer.base import first_tokens
from ilm_ray.data.tokenizer.chat import encode_chat
from ilm_ray.data.tokenizer.cl100k import cl100k
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.evaluation.data import write_data
from ilm_ray.evaluation.programs.humaneval_x import NAMES, lacking
from ilm_ray.evaluation.suites import BENCHMARKS
from ilm_ray.model.internlm2 import CausalLM, Shape, initialize
from ilm_ray.model.weights import save_internlm2
from ilm_ray.serving.folder import servable
from tests.evaluation.known import SEVERAL, Knowing, Served, items, out_of_reach, programs
from tests.evaluation.theirs import mbpp_verdicts

DEADLINE_S = 900.0
INTERPRETER = "GSM8K, code interpreter.chat"
EXAMPLES = 6
# Of 100 for the oracle. What is left out has no data here; generation and perplexity of one benchmark are two rows.
QUICK = (
    "MMLU.base:abstract_algebra",
    "CMMLU.chat:agronomy",
    "AGIEval.base:lsat-ar",
    "C3.base:C3",
    "WinoGrande.base:winogrande",
    "BBH.chat:boolean_expressions",
    "GSM8K.chat:gsm8k",
    "GSM8K, code interpreter.chat:gsm8k-agent",
)
KNOWN = (
    *("MMLU", "CMMLU", "AGIEval", "C3", "WinoGrande", "BBH", "GSM8K", "TheoremQA", "HumanEval", "FLORES"),
    "GSM8K, code interpreter",
)
GUESSED = ("MMLU", "CMMLU", "AGIEval", "C3", "WinoGrande")


@pytest.fixture(scope="module")
def root(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    write_data(shared_data / "eval", folder)
    return folder


@pytest.fixture(scope="module")
def oracle(shared_data: Path) -> Iterator[Served]:
    with Served(Knowing(items(shared_data / "eval"), right=True)) as served:
        yield served


@pytest.fixture(scope="module")
def guesser(shared_data: Path) -> Iterator[Served]:
    with Served(Knowing(items(shared_data / "eval"), right=False)) as served:
        yield served


def _target(served: Served, root: Path, folder: Path, examples: int | None) -> ModelUnderTest:
    return ModelUnderTest(served.url, "model", None, 200_000, str(root), str(folder), examples, request_s=60.0)


def _scores(sets: list[SetOf], folder: Path) -> dict[str, float]:
    return {work.file: json.loads((folder / "results" / work.file).read_text())["score"] for work in sets}


def _quick(sets: list[SetOf]) -> list[SetOf]:
    wanted = dict(entry.split(":") for entry in QUICK)
    return [work for work in sets if work.name.endswith(wanted.get(work.benchmark.key, "\0"))]


@pytest.mark.timeout(1800)
def test_an_oracle_scores_100_and_a_second_run_asks_nothing(
    local_ray: None, python: Path, root: Path, oracle: Served, tmp_path: Path
) -> None:
    target = _target(oracle, root, tmp_path, EXAMPLES)
    keys = {entry.split(":")[0] for entry in QUICK}
    sets = _quick(plan_sets([b for b in BENCHMARKS if b.key in keys], target, python, DEADLINE_S))
    assert len(sets) == len(QUICK) and not any(work.missing for work in sets)
    run_sets(sets, target, python, 1, DEADLINE_S)
    scores = _scores(sets, tmp_path)
    assert scores == dict.fromkeys(scores, 100.0)
    requests = oracle.requests
    lost = tmp_path / "results" / sets[0].file
    lost.unlink()
    run_sets(sets, target, python, 1, DEADLINE_S)  # as after a kill: answers are there, only a result is not
    assert oracle.requests == requests and _scores(sets, tmp_path) == scores


class Silent:
    def answer(self, prompt: str) -> str:
        return ""


class Measuring(Served):
    """Keeps the numbers of tokens that its model would have to hold, prompt and answer together."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(Silent())
        self.tokenizer, self.held = tokenizer, list[int]()

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = encode_chat(self.tokenizer, body["messages"], generation_prompt=True).ids
        self.held.append(len(prompt) + body["max_tokens"])
        return super().reply(body)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_shots_that_do_not_fit_are_left_out(local_ray: None, python: Path, root: Path, tmp_path: Path) -> None:
    """A set of each way to give shots, with a vocabulary so small that most prompts are too long."""
    tokenizer = Tokenizer(first_tokens(cl100k()[0], 900), 1024)
    tokenizer.save(tmp_path / "tokenizer")
    model = CausalLM(Shape(1024, 1, 32, 1, 1, 32, 32))
    initialize(model, 0)
    save_internlm2(model, tmp_path / "sft" / "model")
    folder = servable(tmp_path / "sft", tmp_path / "export", "fp32")
    keys = ("GSM8K.chat", "BBH.chat", "TheoremQA.chat", "MMLU.chat")
    with Measuring(tokenizer) as served:
        target = ModelUnderTest(served.url, "model", str(folder), 1024, str(root), str(tmp_path / "out"), 3)
        sets = plan_sets([b for b in BENCHMARKS if b.key in keys], target, python, DEADLINE_S)
        first = {work.benchmark.key: work for work in reversed(sets) if not work.missing}
        assert first.keys() == set(keys)
        run_sets(list(first.values()), target, python, 1, DEADLINE_S)
    assert len(served.held) == 3 * len(keys) and max(served.held) <= 1024
    assert sum(held > 512 for held in served.held) >= len(keys)  # and what fits is there


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_absent_data_is_named_and_a_failed_set_fails_the_run(
    local_ray: None, python: Path, root: Path, tmp_path: Path
) -> None:
    target = ModelUnderTest(
        "http://127.0.0.1:9", "model", None, 4096, str(root), str(tmp_path), 2
    )  # nobody listens there
    chosen = [b for b in BENCHMARKS if b.key in ("C-Eval.chat", "GSM8K.chat", "C3.chat")]
    sets = plan_sets(chosen, target, python, DEADLINE_S)
    assert all(work.missing for work in sets if work.benchmark.name == "C-Eval")
    with pytest.raises(EvaluationError, match=r"C3\.chat.*did not answer.*log: .*GSM8K\.chat"):
        run_sets([work for work in sets if not work.missing], target, python, 1, DEADLINE_S)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_programs_in_every_language_are_scored_where_their_compiler_is(
    local_ray: None, python: Path, root: Path, shared_data: Path, tmp_path: Path
) -> None:
    with Served(Knowing(programs(shared_data / "eval"), right=True)) as served:
        target = _target(served, root, tmp_path, EXAMPLES)
        sets = plan_sets([b for b in BENCHMARKS if b.name == "HumanEval-X"], target, python, DEADLINE_S)
        assert len(sets) == len(NAMES)
        run_sets(sets, target, python, 1, DEADLINE_S)
    results = {
        w.name.removeprefix("humanevalx-"): json.loads((tmp_path / "results" / w.file).read_text()) for w in sets
    }
    for name in NAMES:
        if lacking(name):
            assert results[name] == {"lacks": lacking(name)}
        else:
            assert (results[name]["score"], results[name]["examples"]) == (100.0, EXAMPLES)


@pytest.mark.slow
def test_an_answer_is_not_evaluated_while_its_program_is_looked_for(python: Path, tmp_path: Path) -> None:
    """OpenCompass evaluates answers to find strings in quotes; without our change the mark would be there."""
    mark = tmp_path / "mark"
    call = f"""
from opencompass.datasets import humanevalx
from ilm_ray.evaluation.opencompass import programs
print(humanevalx._clean_up_code("open({str(mark)!r}, 'w')", "js", "x"))
print(humanevalx._clean_up_code(repr("return 1\\n}}"), "js", "x"))
"""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([python, "-c", call], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert not mark.exists() and done.stdout.splitlines()[-3:] == [f"open('{mark}', 'w')", "return 1", "}"], done


class Hostile(Knowing):
    """Its code loops, prints a gigabyte, or raises; it never stops calling."""

    CODE = ("while True: pass", "for _ in range(2**10): print('x' * 2**20)", "1 / 0")

    def with_interpreter(self, messages: list[dict[str, Any]]) -> str:
        question = next(m["content"] for m in reversed(messages) if m["role"] == "user")
        code = self.CODE[len(question) % len(self.CODE)]
        return f"<|action_start|><|interpreter|>\n```python\n{code}\n```<|action_end|>"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_interpreter_outlives_what_a_model_writes(
    local_ray: None, python: Path, root: Path, guesser: Served, shared_data: Path, tmp_path: Path
) -> None:
    """One that calls nothing and is wrong scores 0; one whose code means harm too, and sees why its code was ended."""
    benchmarks = [b for b in BENCHMARKS if b.key == INTERPRETER]
    errors = dict[str, set[str]]()
    with Served(Hostile(iter(()), right=True)) as hostile:
        for served in (guesser, hostile):
            folder = tmp_path / served.url.rpartition(":")[2]
            target = _target(served, root, folder, EXAMPLES)
            sets = plan_sets(benchmarks, target, python, DEADLINE_S)
            run_sets(sets, target, python, 1, DEADLINE_S)
            result = json.loads((folder / "results" / sets[0].file).read_text())
            assert (result["score"], result["examples"], result["metric"]) == (0.0, EXAMPLES, "follow_acc")
            rows = json.loads((folder / "opencompass" / INTERPRETER / "predictions/model/gsm8k-agent.json").read_text())
            assert served is hostile or not any(row["steps"] for row in rows.values())
            if served is hostile:
                for row in rows.values():
                    roles = [turn["role"] for turn in row["turns"]]
                    assert roles == ["assistant", "environment"] * 2 + ["system", "assistant"]
                    code, output = row["turns"][0]["text"], row["turns"][1]["text"]
                    errors.setdefault(code.splitlines()[2], set()).add(output[-60:])
    endings = {"while True: pass": "processor time", Hostile.CODE[1]: "bytes of output", "1 / 0": "ZeroDivisionError"}
    assert errors and all(endings[code] in output for code, outputs in errors.items() for output in outputs)


class Multiplying(Knowing):
    """Multiplies the first two numbers of a question with the interpreter, or only says so."""

    def with_interpreter(self, messages: list[dict[str, Any]]) -> str:
        question = next(m["content"] for m in reversed(messages) if m["role"] == "user")
        first, second = re.findall(r"\d+", question)[:2]
        if not self.right:
            return "FinalAnswer: The final answer is $no$. The answer is E"
        if messages[-1]["role"] != "environment":
            return f"<|action_start|><|interpreter|>\n{first} * {second}<|action_end|>"
        product = messages[-1]["content"]
        chosen = re.search(rf"([A-D])\. {product}$", question, re.MULTILINE)
        answer = chosen[1] if chosen else product
        return f"FinalAnswer: The answer is {answer}" if "times" in question else f"The final answer is ${answer}$."


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_math_and_mathbench_with_an_interpreter_on_files_in_their_form(
    local_ray: None, python: Path, tmp_path: Path
) -> None:
    """Their data is not at hand; the few questions here are ours."""
    data, products = tmp_path / "root/data", [(17, 23), (41, 59), (12, 88)]
    for folder in ("math", "mathbench/college", "mathbench/high"):
        (data / folder).mkdir(parents=True)
    problems = {
        str(i): {
            "problem": f"Compute ${a} \\cdot {b}$.",
            "solution": f"It is $\\boxed{{{a * b}}}$.",
            "level": "Level 1",
        }
        for i, (a, b) in enumerate(products)
    }
    (data / "math/math.json").write_text(json.dumps(problems))
    questions = [{"question": f"What is {a} times {b}?", "answer": str(a * b)} for a, b in products]
    choices = [
        row | {"options": [str(a * b + d) for d in (1, 0, 7, 20)], "answer": "B"}
        for row, (a, b) in zip(questions, products, strict=True)
    ]
    for name, rows in (("college/cloze_en", questions), ("high/single_choice_en", choices)):
        (data / f"mathbench/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    wanted = [b for b in BENCHMARKS if b.interpreter and not b.name.startswith("GSM8K")]
    for right in (True, False):
        folder = tmp_path / str(right)
        with Served(Multiplying(iter(()), right=right)) as served:
            target = _target(served, tmp_path / "root", folder, None)
            sets = [s for s in plan_sets(wanted, target, python, DEADLINE_S) if not s.missing]
            assert len(sets) == 3
            run_sets(sets, target, python, 1, DEADLINE_S)
        scores = _scores(sets, folder)
        assert scores == dict.fromkeys(scores, 100.0 if right else 0.0)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_an_oracle_scores_100_on_every_benchmark_at_hand(
    local_ray: None, python: Path, root: Path, oracle: Served, shared_data: Path, tmp_path: Path
) -> None:
    target = _target(oracle, root, tmp_path, None)
    sets = plan_sets([b for b in BENCHMARKS if b.name in KNOWN], target, python, DEADLINE_S)
    present = [work for work in sets if not work.missing]
    run_sets(present, target, python, 2, 3600.0)
    below = list[str]()
    for work in present:
        result = json.loads((tmp_path / "results" / work.file).read_text())
        lost = out_of_reach(work.name, shared_data / "eval")
        if result["score"] < 100.0 * (1 - lost / result["examples"]) - 1e-6:
            below.append(f"{work.file}: {result}")
        elif result["score"] < 100.0:
            print(f"{work.file}: {result['score']:.2f}, of {result['examples']} items at most {lost} are out of reach")
    assert below == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_sandbox_and_opencompass_agree_on_every_published_solution(
    local_ray: None, python: Path, root: Path, oracle: Served, tmp_path: Path
) -> None:
    """OpenCompass compares types too, so some of the published solutions fail their own tests: 100 is out of reach."""
    target = _target(oracle, root, tmp_path, None)
    sets = plan_sets([b for b in BENCHMARKS if b.key == "MBPP sanitized.chat"], target, python, DEADLINE_S)
    run_sets(sets, target, python, 1, DEADLINE_S)
    folder = tmp_path / "opencompass" / "MBPP sanitized.chat"
    ask = ray.remote(mbpp_verdicts).options(num_cpus=1, runtime_env={"py_executable": str(python)})
    files = (folder / part / "model" / "sanitized_mbpp.json" for part in ("predictions", "results"))
    theirs, ours = ray.get(ask.remote(*files), timeout=DEADLINE_S)
    assert len(ours) == len(theirs) > 200 and ours == theirs


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_guessing_scores_what_chance_gives(
    local_ray: None, python: Path, root: Path, guesser: Served, shared_data: Path, tmp_path: Path
) -> None:
    """Within four standard deviations of the sum of all draws, in generation and in perplexity mode."""
    target = _target(guesser, root, tmp_path, None)
    sets = plan_sets([b for b in BENCHMARKS if b.name in GUESSED], target, python, DEADLINE_S)
    present = [work for work in sets if not work.missing and "cloze" not in work.name and work.name != "agieval-math"]
    present = [work for work in present if work.name.removeprefix("agieval-") not in SEVERAL]
    run_sets(present, target, python, 2, 3600.0)
    for key in sorted({work.benchmark.key for work in present}):
        of_key = [work for work in present if work.benchmark.key == key]
        results = [json.loads((tmp_path / "results" / work.file).read_text()) for work in of_key]
        right = sum(result["score"] * result["examples"] / 100 for result in results)
        chances = [p for work in of_key for p in _chances(work, shared_data / "eval")]
        assert len(chances) == sum(result["examples"] for result in results), key
        deviation = math.sqrt(sum(p * (1 - p) for p in chances))
        assert abs(right - sum(chances)) < 4 * deviation, key


def _chances(work: SetOf, folder: Path) -> list[float]:
    """1 / number of different choices for each item of the set, read from the published files."""
    name = work.name.removeprefix("lukaemon_mmlu_").removeprefix("cmmlu-").removeprefix("agieval-")
    if work.benchmark.name == "MMLU":
        return [1 / 4 for _ in _csv(folder / f"mmlu/test/{name}_test.csv")]
    if work.benchmark.name == "CMMLU":
        return [1 / 4 for _ in _csv(folder / f"cmmlu/test/{name}.csv")][1:]  # less the head
    if work.benchmark.name == "AGIEval":
        rows = map(json.loads, (folder / f"agieval/{name}.jsonl").read_text(encoding="utf-8").splitlines())
        return [1 / len(row["options"]) for row in rows]
    if work.benchmark.name == "C3":
        parts = [json.loads((folder / f"c3/c3-{part}-dev.json").read_text(encoding="utf-8")) for part in ("m", "d")]
        return [1 / len(row["choice"]) for part in parts for _, rows, _ in part for row in rows]
    return [1 / 2 for _ in (folder / "llm_foundry_qa/winogrande.jsonl").read_text(encoding="utf-8").splitlines()]


def _csv(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8-sig") as file:
        return list(csv.reader(file))
