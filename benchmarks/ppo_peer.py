"""Claim: an iteration of PPO or GRPO in (prompt + response tokens) a second against TRL 1.11.0 on this machine.

    python benchmarks/ppo_peer.py [--algorithm ppo] [--size tiny wide] [--rounds 2] [--backend auto] [--peer-venv DIR]

The formula is HybridFlow's (arXiv 2409.19256). Same policy weights, prompts' lengths, limits of responses, sampling
(temperature 1, no top_p), one epoch, one mini-batch, fp32, no pre-training loss. Rounds alternate, each from a fresh
start, and the first two iterations of each are left out. TRL: policy, critic, reference and reward in one process with
one thread a core. Ours: six actor groups on Ray, one thread each; transfer of weights, experience on disk included.
grpo: 8 answers to a prompt, as many answers in all, no critic, k3 in the loss, a Python function (characters of the
answer) in the reward model's place on both sides, a policy rank a core.

`tiny`: hidden 128, 4 layers, 2,048 words, 32 prompts of 16 tokens, responses of 64. `wide`: hidden 512, 8 layers, 64
prompts of 16, responses of up to 256 tokens that end by themselves: the end token has a chance of 1/110 at every
place. TRL's responses are drawn from the same distribution; those of its PPO are counted with the mean length of ours.
Aims: tiny no slower, wide 1.5 times; transfer of weights at most 5% of an iteration at `wide`.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from processes import peer_python, run_measured

from actors.ppo.driver import PPORun
from actors.ppo.reward import ChatIds
from actors.ppo.roles import Inputs
from ilm_ray.alignment.ppo.experience import Prompt
from ilm_ray.config.alignment import PPOConfig
from ilm_ray.data.tokenizer.tokenizer import SPECIALS, Tokenizer
from ilm_ray.model.huggingface import export_model
from ilm_ray.model.internlm2 import CausalLM, Packed, ScalarModel, Shape, initialize
from ilm_ray.model.weights import save_internlm2

REPOSITORY = Path(__file__).parents[1]
PEER = ("torch==2.13.0", "trl==1.11.0", "transformers<5.20", "datasets", "accelerate", "rich", "requests")
CORES, LEFT_OUT = 2, 2
BOS, END, REWARD = 1, 2, 3
ANSWERS = 8  # to a prompt, with grpo


@dataclass(frozen=True)
class Size:
    shape: Shape
    prompts: int
    prompt_tokens: int
    max_new_tokens: int
    mean_length: float | None  # of responses that end by themselves; None: they go on to the limit
    iterations: int


SIZES = {
    "tiny": Size(Shape(2048, 4, 128, 2, 2, 32, 344), 32, 16, 64, None, 12),
    "wide": Size(Shape(2048, 8, 512, 4, 2, 64, 1376), 64, 16, 256, 110.0, 5),
}


def make_models(size: Size, folder: Path) -> None:
    """Random weights for both sides."""
    policy, reward = CausalLM(size.shape), ScalarModel(size.shape)
    initialize(policy, 0)
    initialize(reward, 1)
    with torch.no_grad():
        # The first dimension of the hidden state is large and nearly the same for all tokens: it gives the end its
        # chance.
        policy.model.tok_embeddings.weight[:, 0] = 1.0
        policy.output.weight[:, 0] = 0.0
        policy.output.weight[END, :] = 0.0
        if size.mean_length is None:
            policy.output.weight[END, 0] = -10.0
        else:
            give_mean_length(policy, size.mean_length)
    save_internlm2(policy, folder / "ours" / "policy")
    save_internlm2(reward, folder / "ours" / "reward")
    ids = {"bos_token_id": BOS, "eos_token_id": END, "pad_token_id": 0}
    export_model(policy, folder / "policy", "llama", torch.float32, ids)
    (folder / "policy" / "generation_config.json").write_text(json.dumps({"eos_token_id": END, "pad_token_id": 0}))


def give_mean_length(policy: CausalLM, length: float) -> None:
    """Set what the end token makes of the first dimension, so that its chance at any place is 1 / `length`."""
    words = torch.randint(4, policy.shape.vocab_size, (8, 128), generator=torch.Generator().manual_seed(4))
    hidden = policy.model(Packed.of(words.tolist()))
    for _ in range(10):
        chance = policy.output(hidden).softmax(-1)[:, END].mean()
        policy.output.weight[END, 0] -= (chance * length).log() / hidden[:, 0].mean()


def words(vocabulary: int) -> Tokenizer:
    """A tokenizer that has a text for every id."""
    longer = [f"{number:04d}".encode() for number in range(vocabulary - 256 - len(SPECIALS))]
    return Tokenizer([*(bytes([byte]) for byte in range(256)), *longer], vocabulary)


def run_ours(size: Size, folder: Path, backend: str, algorithm: str) -> list[dict[str, Any]]:
    """Rows of the iterations that count."""
    grouped = algorithm == "grpo"
    answers = ANSWERS if grouped else 1
    settings = {
        "iterations": size.iterations,
        "critic_warmup": 0,
        "prompts_per_iteration": size.prompts // answers,
        "answers_per_prompt": answers,
        "max_prompt_tokens": size.prompt_tokens,
        "max_new_tokens": size.max_new_tokens,
        "top_p": 1.0,
        "pretrain_coefficient": 0.0,
        "policy_ranks": CORES if grouped else 1,
        "critic_ranks": 1,
        "reference_ranks": 1,
        "reward_ranks": 1,
        "rollout_engines": CORES,
        "precision": "fp32",
        "rollout_backend": backend,
        "checkpoint_every": 10**6,
    }
    if grouped:
        rule = {"by": "length", "options": {"least": 1, "most": 400}}
        settings |= {"estimator": "grpo", "kl_in": "loss", "kl_estimator": "k3", "rewards": [rule]}
        words(size.shape.vocab_size).save(folder / "ours" / "tokenizer")
    generator = torch.Generator().manual_seed(3)
    prompts = [
        Prompt(str(i), "any", [BOS, *torch.randint(4, 2048, (size.prompt_tokens - 1,), generator=generator).tolist()])
        for i in range(size.prompts // answers * size.iterations)
    ]
    chat = ChatIds({"any": []}, REWARD, END, [], [END])
    models = folder / "ours"
    inputs = Inputs(
        policy=models / "policy",
        reward=None if grouped else models / "reward",
        prompts=prompts,
        chat=chat,
        pretrain=None,
        reward_context=1024,
        micro_tokens=4096,
        loss_chunk=4096,
        seed=5,
        tokenizer=models / "tokenizer" if grouped else None,
    )
    ppo = PPOConfig.model_validate(settings)
    with tempfile.TemporaryDirectory() as run_folder, PPORun(ppo, inputs, Path(run_folder)) as run:
        return run.run(lambda ids: "")[LEFT_OUT:]


def run_peer(python: Path, size: Size, folder: Path, algorithm: str) -> tuple[list[float], float | None]:
    """Seconds of the iterations that count, and the mean tokens of their answers where the peer says it."""
    settings = {
        "prompts": size.prompts,
        "prompt_tokens": size.prompt_tokens,
        "max_new_tokens": size.max_new_tokens,
        "iterations": size.iterations,
        "vocabulary": size.shape.vocab_size,
        "threads": CORES,
        "answers": ANSWERS if algorithm == "grpo" else 1,
    }
    script = REPOSITORY / "benchmarks" / "trl_peer.py"
    command = [str(python), str(script), str(folder), json.dumps(settings)]
    done = run_measured(command, 1200, {"PYTHONPATH": "", "OMP_NUM_THREADS": str(CORES)})
    told = json.loads(done.stdout.strip().splitlines()[-1])
    return told["seconds"][LEFT_OUT - 1 :], told["length"]


def compare(name: str, algorithm: str, rounds: int, backend: str, python: Path) -> dict[str, Any]:
    size = SIZES[name]
    rows, theirs, lengths = list[dict[str, Any]](), list[float](), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        make_models(size, Path(folder))
        for _ in range(rounds):
            rows += run_ours(size, Path(folder), backend, algorithm)
            seconds, peer_length = run_peer(python, size, Path(folder), algorithm)
            theirs += seconds
            lengths += [] if peer_length is None else [peer_length]
    length = statistics.fmean(row["response_tokens"] for row in rows)
    peer_length = statistics.fmean(lengths) if lengths else length
    tokens, peer_tokens = (size.prompts * (size.prompt_tokens + mean) for mean in (length, peer_length))
    ours = statistics.median(row["seconds"]["all"] for row in rows)
    peer = statistics.median(theirs)
    phases = {
        phase: statistics.median(row["seconds"][phase] / row["seconds"]["all"] for row in rows)
        for phase in ("weights", "rollout", "score", "train")
    }
    ratio = tokens / ours / (peer_tokens / peer)
    print(f"{algorithm}, {name}: {size.prompts} answers of {length:.0f} tokens on average, TRL's of {peer_length:.0f}")
    print(f"  ours {ours:.2f} s, {tokens / ours:,.0f} tokens/s; TRL {peer:.2f} s, {peer_tokens / peer:,.0f} tokens/s")
    print(f"  {ratio:.2f} times TRL")
    shares = ", ".join(f"{phase} {share:.0%}" for phase, share in phases.items())
    weights = statistics.median(row["seconds"]["weights"] for row in rows)
    print(f"  {shares}, none of them {1 - sum(phases.values()):.0%}; transfer of weights {weights:.3f} s", flush=True)
    figures = {"ours_s": ours, "trl_s": peer, "transfer_s": weights, "ratio": ratio, "shares": phases}
    return {"algorithm": algorithm, "size": name, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", choices=["ppo", "grpo"], default="ppo")
    parser.add_argument("--size", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--backend", choices=["auto", "vllm", "torch"], default="auto")
    parser.add_argument("--peer-venv", type=Path, default=REPOSITORY / ".venv-trl")
    args = parser.parse_args()
    python = peer_python(args.peer_venv, PEER)
    env = {"PYTHONPATH": str(REPOSITORY), "GLOO_SOCKET_IFNAME": "lo"}
    ray.init(
        address="local", num_cpus=CORES, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": env}
    )
    figures = [compare(name, args.algorithm, args.rounds, args.backend, python) for name in args.size]
    ray.shutdown()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
