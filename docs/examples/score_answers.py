"""Two answers to one question under each condition of a run's reward model.

    python docs/examples/score_answers.py RUN 'Write a function that halves a number.' 'def half(x): ...' 'Divide it.'

RUN: a run folder whose stage `reward` is done. The model reads a domain's system prompt, the conversation and a final
token, and its score stands at that token; another domain is another condition and gives another score. Prints one line
a domain, parted by tabs: domain, score of the first answer, of the second, which is preferred.
"""

import argparse
import sys
from pathlib import Path

import torch

from ilm_ray.alignment.reward.conditional import condition_prefix, conditioned, load_conditions
from ilm_ray.base.errors import UserError
from ilm_ray.config import load_config
from ilm_ray.data.tokenizer.chat import encode_chat
from ilm_ray.data.tokenizer.messages import Message
from ilm_ray.data.tokenizer.opening import open_tokenizer
from ilm_ray.model.internlm2 import Packed
from ilm_ray.model.weights import load_scalar


@torch.no_grad()
def scores(run: Path, question: str, answers: list[str]) -> dict[str, list[float]]:
    """Domain -> the score of each answer. Raises UserError where model and conditions do not match."""
    tokenizer = open_tokenizer(run / "tokenizer")
    folder = run / "reward" / "model"
    conditions = load_conditions(folder, tokenizer)
    model = load_scalar(folder)
    config = run / "config.yaml"  # what the run was made with; without it the preset's context
    context = load_config("nano", config if config.is_file() else None).reward.context
    conversations = []
    for answer in answers:
        messages: list[Message] = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        conversations.append(encode_chat(tokenizer, messages).ids)
    found = {}
    for domain, system_prompt in conditions.prompts.items():
        prefix = condition_prefix(tokenizer, system_prompt)
        batch = Packed.of([conditioned(prefix, ids, tokenizer.reward_id, context) for ids in conversations])
        last = batch.cu_seqlens[1:].long() - 1  # where the reward token stands in the packed row
        found[domain] = model(batch)[last].tolist()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("question")
    parser.add_argument("answers", nargs=2, metavar="answer")
    arguments = parser.parse_args()
    try:
        found = scores(arguments.run, arguments.question, arguments.answers)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for domain, (first, second) in found.items():
        print(f"{domain}\t{first:.4f}\t{second:.4f}\t{'first' if first > second else 'second'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
