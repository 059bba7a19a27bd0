"""Questions answered with a code interpreter: the part between OpenCompass's data and evaluators and `solve`."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from opencompass.datasets.math import MATHAgentEvaluator, MATHEvaluator
from opencompass.openicl.icl_inferencer import ChatInferencer

from ilm_ray.data.tokenizer.chatml import Message
from ilm_ray.evaluation.leftovers import drop_torn
from ilm_ray.evaluation.opencompass.conversation import reply
from ilm_ray.evaluation.programs.interpreter import NAME, SYSTEM, Solved, shots, solve, written

INTERPRETER: Message = {"role": "system", "name": NAME, "content": SYSTEM}
Row = dict[str, Any]


class InterpreterInferencer(ChatInferencer):
    """Keeps for each question its answer, its calls (`steps`), and all that was said (`turns`).

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
    ) -> dict[str, Row]:
        chats = self.get_chat_list(retriever.retrieve(), retriever, prompt_template=prompt_template)
        folder, name = Path(output_json_filepath or "."), output_json_filename or "predictions"
        done, so_far = folder / name, folder / f"tmp_{name}"
        drop_torn(so_far)
        found: dict[str, Row] = json.loads(so_far.read_text(encoding="utf-8")) if so_far.exists() else {}
        while len(found) < len(chats):
            batch = chats[len(found) : len(found) + self.batch_size]
            with ThreadPoolExecutor(self.model.workers) as pool:
                found |= {str(len(found) + i): row for i, row in enumerate(pool.map(self._answered, batch))}
            so_far.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
        so_far.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
        so_far.replace(done)
        return found

    def _answered(self, chat: list[dict[str, str]]) -> Row:
        """chat: shots, the question, and last what is right, which the model is not told."""
        *asked, gold = chat
        question = [INTERPRETER, *shots(asked)]
        model, room = self.model, self.max_out_len
        solved = solve(question, lambda messages: reply(model.endpoint, model.window, model.path, messages, room))
        return prediction(solved, asked[-1]["content"], gold["content"])


def prediction(solved: Solved, question: str, gold: str) -> Row:
    """A row as OpenCompass's evaluators of agents read it, with the whole exchange as `turns`."""
    turns = [{"role": message["role"], "text": written(message)} for message in solved.messages]
    return {
        "gold": gold, "prediction": solved.answer, "origin_prompt": question, "steps": solved.steps, "turns": turns
    }  # fmt: skip


class InterpreterMATH(MATHAgentEvaluator):
    """OpenCompass divides by the number of answers with a call; here there may be none."""

    def score(self, predictions: Sequence[str], references: Sequence[str], steps: Sequence[list[Row]]) -> Row:
        if any(map(self.get_action, steps)):
            return super().score(predictions, references, steps)
        right = MATHEvaluator.score(self, predictions, references)["accuracy"]
        return {"follow_acc": right, "reasoning_acc": right, "code_acc": 0.0, "action_pct": 0.0}
