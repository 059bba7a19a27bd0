"""PPO's actor groups from Python: a toy policy and a toy reward model, a few iterations, reward and KL of each.

    python docs/examples/ppo_groups.py FOLDER [--iterations 2]

FOLDER gets the models, and what a run's stage `ppo` leaves: checkpoints, metrics.jsonl, samples.jsonl, trained model.
The same command again goes on from there. Weights are random, so the figures mean nothing; what is to be seen is how
the groups are started and fed. Prints one line an iteration: iteration, mean reward, KL in nats a sequence, mean tokens
of an answer.
"""

import argparse
from pathlib import Path

import ray

from actors.ppo.driver import PPORun
from actors.ppo.roles import Inputs
from actors.scoring import chat_ids
from ilm_ray.alignment.ppo.experience import Prompt
from ilm_ray.alignment.reward.conditional import Conditions
from ilm_ray.config.alignment import PPOConfig
from ilm_ray.data.tokenizer.chat import encode_chat
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.model.internlm2 import CausalLM, ScalarModel, Shape, initialize
from ilm_ray.model.weights import save_internlm2

SHAPE = Shape(vocab_size=288, layers=2, hidden=64, kv_heads=2, queries_per_kv=1, head_dim=32, mlp_hidden=96)
CONDITIONS = {"helpful": "Score how helpful the answer is.", "code": "Score the code."}
QUESTIONS = ("What is a stew?", "Halve a number.", "How do I tune a violin?", "Sum a list.")


def make_inputs(folder: Path, tokenizer: Tokenizer) -> Inputs:
    """Random models in `folder`; prompts as token ids, each with the domain that picks its condition."""
    for name, model, seed in (("policy", CausalLM(SHAPE), 0), ("reward", ScalarModel(SHAPE), 1)):
        initialize(model, seed)
        save_internlm2(model, folder / "models" / name)
    prompts = [
        Prompt(
            id=f"question-{number}",
            domain=("helpful", "code")[number % 2],
            ids=encode_chat(tokenizer, [{"role": "user", "content": text}], generation_prompt=True).ids,
        )
        for number, text in enumerate(QUESTIONS)
    ]
    return Inputs(
        policy=folder / "models" / "policy",  # also the reference
        reward=folder / "models" / "reward",  # also the critic's body
        prompts=prompts,
        chat=chat_ids(tokenizer, Conditions(CONDITIONS, tokenizer.reward_id)),
        pretrain=None,  # no pre-training loss
        reward_context=256,
        micro_tokens=1024,
        loss_chunk=1024,
        seed=1234,
    )


def settings(iterations: int) -> PPOConfig:
    """One rank a group, answers by the torch generator: what two cores can hold."""
    ranks = dict.fromkeys(("policy_ranks", "critic_ranks", "reference_ranks", "reward_ranks", "rollout_engines"), 1)
    return PPOConfig(
        iterations=iterations,
        prompts_per_iteration=4,
        critic_warmup=0,
        max_prompt_tokens=96,
        max_new_tokens=16,
        policy_lr=1e-3,
        critic_lr=1e-3,
        precision="fp32",
        rollout_backend="torch",
        checkpoint_every=1,
        validate_every=None,  # the last policy is the result
        **ranks,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--iterations", type=int, default=2)
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()  # the actors have working directories of their own
    env = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": env})
    tokenizer = Tokenizer([bytes([i]) for i in range(256)], SHAPE.vocab_size)  # bytes, and the special tokens
    try:
        with PPORun(settings(arguments.iterations), make_inputs(folder, tokenizer), folder / "ppo") as run:
            for row in run.run(tokenizer.decode):
                print(f"{row['iteration']}\t{row['reward']:.6f}\t{row['kl']:.6f}\t{row['response_tokens']:.2f}")
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
