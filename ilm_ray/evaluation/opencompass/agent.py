"""Answers with a code interpreter: OpenCompass's data goes to `solve`, its answers to OpenCompass's evaluators."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict

from opencompass.datasets.math import MATHAgentEvaluator, MATHEvaluator
from opencompass.openicl.icl_inferencer import ChatInferencer

from ilm_ray.data.tokenizer.messages import Message
from ilm_ray.evaluation.leftovers import drop_torn
from ilm_ray.evaluation.opencompass.conversation import reply
from ilm_ray.evaluation.programs.interpreter import NAME, SYSTEM, Solved, shots, solve, written
from ilm_ray.evaluation.results import Turn

INTERPRETER: Message = {"role": "system", "name": NAME, "content": SYSTEM}


class AgentPrediction(TypedDict):
    """A row that OpenCompass's evaluators of agents read. steps: calls of the interpreter; turns: all messages."""

    gold: str
    prediction: str
    origin_prompt: str
    steps: list[dict[str, Any]]
    turns: list[Turn]


class InterpreterInferencer(ChatInferencer):
    """Writes an AgentPrediction for each question.

    OpenCompass's own inferencer of agents wants one of lagent's, asks one question at a time, and cannot go on after a
    kill.
    """

    def inference(
        self,
        retriever: Any,
        ice_template: Any = None,
        prompt_template: Any = None,
        output_json_filepath: str | None = None,
        output_json_filename: str | None = None,
    ) -> dict[str, AgentPrediction]:
        chats = self.get_chat_list(retriever.retrieve(), retriever, prompt_template=prompt_template)
        folder, name = Path(output_json_filepath or "."), output_json_filename or "predictions"
        whole, so_far = folder / name, folder / f"tmp_{name}"
        drop_torn(so_far)
        predictions: dict[str, AgentPrediction] = (
            json.loads(so_far.read_text(encoding="utf-8")) if so_far.exists() else {}
        )
        while len(predictions) < len(chats):
            done = len(predictions)
            batch = chats[done : done + self.batch_size]
            with ThreadPoolExecutor(self.model.workers) as pool:
                predictions |= {str(done + i): row for i, row in enumerate(pool.map(self._answered, batch))}
            so_far.write_text(json.dumps(predictions, ensure_ascii=False), encoding="utf-8")
        so_far.write_text(json.dumps(predictions, ensure_ascii=False), encoding="utf-8")
        so_far.replace(whole)
        return predictions

    def _answered(self, chat: list[dict[str, str]]) -> AgentPrediction:
        """chat: shots, the question and, last, the right answer, which the model does not see."""
        *turns, gold = chat
        question = [INTERPRETER, *shots(turns)]
        model, room = self.model, self.max_out_len
        solved = solve(question, lambda messages: reply(model.endpoint, model.window, model.path, messages, room))
        return prediction(solved, turns[-1]["content"], gold["content"])


def prediction(solved: Solved, question: str, gold: str) -> AgentPrediction:
    """The row of a question."""
    turns: list[Turn] = [{"role": message["role"], "text": written(message)} for message in solved.messages]
    return {
        "gold": gold, "prediction": solved.answer, "origin_prompt": question, "steps": solved.steps, "turns": turns
    }  # fmt: skip


class InterpreterMATH(MATHAgentEvaluator):
    """OpenCompass divides by the number of answers with a call; here there may be none."""

    def score(
        self, predictions: Sequence[str], references: Sequence[str], steps: Sequence[list[dict[str, Any]]]
    ) -> dict[str, Any]:
        if any(map(self.get_action, steps)):
            return super().score(predictions, references, steps)
        right = MATHEvaluator.score(self, predictions, references)["accuracy"]
        return {"follow_acc": right, "reasoning_acc": right, "code_acc": 0.0, "action_pct": 0.0}
