"""Texts into token shards, shards into packed batches, batches into a tiny InternLM2 that learns: in one process.

    python docs/examples/train_tiny.py [FILE.txt ...] [--steps 30]

The shards and the order of sequences are those of a run, so a batch here has what a batch of `jobs/pretrain.py` has.
Without files the demo's conversations are the text. Prints one line a step: step, loss in nats a token, learning rate.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from ilm_ray.data.tokenizer.base import first_tokens
from ilm_ray.data.tokenizer.cl100k import cl100k
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.data.tokens.mixture import Mixture
from ilm_ray.data.tokens.shards import TokenSource, write_shard
from ilm_ray.model.internlm2 import CausalLM, Shape, initialize
from ilm_ray.training.optimizer import adamw
from ilm_ray.training.pretrain import next_token_losses
from ilm_ray.training.schedule import cosine_lr

CHAT = Path(__file__).parents[2] / "demo" / "data" / "chat.jsonl"
VOCABULARY, CONTEXT, SEQUENCES, SEED = 1024, 128, 8, 1234


def demo_texts() -> list[str]:
    lines = CHAT.read_text(encoding="utf-8").splitlines()
    return ["\n".join(message["content"] for message in json.loads(line)["messages"]) for line in lines]


def write_tokens(texts: list[str], tokenizer: Tokenizer, folder: Path) -> TokenSource:
    """The texts as token shards in `folder`, opened for reading."""
    documents = (
        {"id": number, "tokens": tokenizer.encode_document(text), "bytes": len(text.encode())}
        for number, text in enumerate(texts)
    )
    write_shard(folder, 0, documents)
    return TokenSource(folder)


def train(mixture: Mixture, steps: int) -> None:
    """Each step: the next sequences, the mean loss of their tokens, its gradient, clipping, AdamW."""
    shape = Shape(VOCABULARY, layers=2, hidden=64, kv_heads=2, queries_per_kv=1, head_dim=32, mlp_hidden=128)
    model = CausalLM(shape)
    initialize(model, SEED)
    optimizer = adamw(model.named_parameters(), betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for step in range(steps):
        batch, labels = mixture.batch(first=step * SEQUENCES, count=SEQUENCES)
        losses = next_token_losses(model, batch, labels)
        mean = losses.loss / losses.count
        mean.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = cosine_lr(step, steps, max_lr=3e-3, warmup_ratio=0.1, final_ratio=0.1)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        print(f"{step + 1}\t{mean.item():.4f}\t{rate:.2e}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    texts = [path.read_text(encoding="utf-8") for path in arguments.files] or demo_texts()
    tokenizer = Tokenizer(first_tokens(cl100k()[0], 900), VOCABULARY)
    with tempfile.TemporaryDirectory() as folder:
        source = write_tokens(texts, tokenizer, Path(folder))
        print(f"{len(source)} documents, {source.total_tokens} tokens")
        train(Mixture({"texts": source}, {"texts": 1.0}, CONTEXT, SEED), arguments.steps)


if __name__ == "__main__":
    main()
