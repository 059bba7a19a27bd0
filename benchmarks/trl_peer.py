"""The peer's side of `ppo_peer.py`, run by the Python of the peer's own environment (TRL 1.11.0).

    python trl_peer.py FOLDER SETTINGS

FOLDER: `policy`, a LLaMA in Transformers' format, and config.json of the scalar models beside it. SETTINGS, JSON:
prompts (answers of an iteration), prompt_tokens, max_new_tokens, iterations, vocabulary, threads, answers (to a prompt;
more than 1: GRPO, else PPO). Prints as JSON the seconds of each iteration, and the mean tokens of GRPO's answers (null
for PPO, whose trainer does not say).
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer
from trl.experimental.ppo import PPOConfig, PPOTrainer

PAD, BOS, EOS, UNKNOWN = range(4)


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A word for each id; the trainer asks for one."""
    words = Tokenizer(models.WordLevel({f"<{i}>": i for i in range(vocabulary)}, unk_token=f"<{UNKNOWN}>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad": PAD, "bos": BOS, "eos": EOS, "unk": UNKNOWN}
    tokens = {f"{name}_token": f"<{number}>" for name, number in names.items()}
    return PreTrainedTokenizerFast(tokenizer_object=words, padding_side="left", **tokens)


class Clock(TrainerCallback):
    def __init__(self) -> None:
        self.stamps: list[float] = []

    def on_step_end(self, *_arguments: object, **_named: object) -> None:
        self.stamps.append(time.perf_counter())


def main(folder: Path, settings: dict[str, int]) -> None:
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    clock = Clock()
    trainer = (grpo if settings["answers"] > 1 else ppo)(folder, settings, clock)
    trainer.train()
    seconds = [b - a for a, b in zip(clock.stamps[1:], clock.stamps[2:], strict=False)]
    lengths = [row["completions/mean_length"] for row in trainer.state.log_history if "completions/mean_length" in row]
    print(json.dumps({"seconds": seconds, "length": sum(lengths[2:]) / len(lengths[2:]) if lengths[2:] else None}))


def prompt_ids(settings: dict[str, int], count: int) -> list[list[int]]:
    """Random prompts."""
    return [torch.randint(4, settings["vocabulary"], (settings["prompt_tokens"],)).tolist() for _ in range(count)]


def ppo(folder: Path, settings: dict[str, int], clock: Clock) -> PPOTrainer:
    policy, reference = (LlamaForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32) for _ in range(2))
    shape = LlamaConfig.from_pretrained(folder / "policy", num_labels=1, pad_token_id=PAD)
    reward, value = (LlamaForSequenceClassification(shape) for _ in range(2))
    count = settings["prompts"]
    data = Dataset.from_dict({"input_ids": prompt_ids(settings, count * (settings["iterations"] + 2))})
    arguments = PPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=8,
        gradient_accumulation_steps=count // 8,
        num_mini_batches=1,
        num_ppo_epochs=1,
        total_episodes=count * settings["iterations"],
        response_length=settings["max_new_tokens"],
        temperature=1.0,
        stop_token="eos",
        learning_rate=1e-6,
        report_to="none",
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        num_sample_generations=0,
        local_rollout_forward_batch_size=32,
        missing_eos_penalty=None,
        gradient_checkpointing=False,
    )
    return PPOTrainer(
        args=arguments,
        processing_class=word_tokenizer(settings["vocabulary"]),
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=data,
        eval_dataset=data.select(range(8)),
        callbacks=[clock],
    )


def grpo(folder: Path, settings: dict[str, int], clock: Clock) -> GRPOTrainer:
    """The reference takes part, as it does in ours: its KL term has a coefficient above 0."""
    count = settings["prompts"] // settings["answers"] * (settings["iterations"] + 2)
    texts = [" ".join(f"<{i}>" for i in ids) for ids in prompt_ids(settings, count)]
    arguments = GRPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=32,
        gradient_accumulation_steps=settings["prompts"] // 32,
        num_generations=settings["answers"],
        num_iterations=1,
        max_steps=settings["iterations"],
        max_completion_length=settings["max_new_tokens"],
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        beta=0.01,
        learning_rate=1e-6,
        report_to="none",
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        gradient_checkpointing=False,
        logging_strategy="steps",
        logging_steps=1,
        disable_tqdm=True,
    )

    def length(completions: list[str], **_columns: object) -> list[float]:
        return [float(1 <= len(text) <= 400) for text in completions]

    return GRPOTrainer(
        model=LlamaForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32),
        reward_funcs=length,
        args=arguments,
        processing_class=word_tokenizer(settings["vocabulary"]),
        train_dataset=Dataset.from_dict({"prompt": texts}),
        callbacks=[clock],
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
