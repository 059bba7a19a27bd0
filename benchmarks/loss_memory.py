"""Peak memory of the summed loss at the real vocabulary against cross-entropy over the whole matrix of logits.

    python benchmarks/loss_memory.py [--tokens 4096] [--hidden 64] [--vocabulary 92544] [--chunk 512]

Forward and backward from hidden states and the head's weights, fp32, each way in a process of its own; memory is what
the process's peak (resident set) has grown by. A small `hidden` keeps the gradient of the weights, which all have, out
of the picture. `recomputed` gives each token's loss, `summed` their sum. Gradients are compared.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ilm_ray.model.loss import summed_loss, token_losses

WAYS = ("naive", "recomputed", "summed")


def loss_of(way: str, hidden: Tensor, head: nn.Linear, labels: Tensor, chunk: int) -> Tensor:
    if way == "naive":
        return F.cross_entropy(head(hidden), labels, reduction="sum")
    return (
        token_losses(hidden, head.weight, labels, chunk).sum()
        if way == "recomputed"
        else summed_loss(hidden, head.weight, labels, chunk)
    )


def measure(way: str, args: argparse.Namespace) -> None:
    """In the child: print the growth in bytes and leave the loss and the gradients in a file."""
    torch.manual_seed(0)
    hidden = torch.randn(args.tokens, args.hidden, requires_grad=True)
    head = nn.Linear(args.hidden, args.vocabulary, bias=False)
    labels = torch.randint(0, args.vocabulary, (args.tokens,))
    loss_of(way, hidden[:8], head, labels[:8], args.chunk).backward()  # what any first use costs
    hidden.grad = head.weight.grad = None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loss = loss_of(way, hidden, head, labels, args.chunk)
    loss.backward()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    torch.save([loss.detach(), hidden.grad, head.weight.grad], args.measure[1])
    print(grown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, default=92_544)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return measure(args.measure[0], args)
    grown, results = dict[str, int](), dict[str, list[Tensor]]()
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            file = Path(folder) / f"{way}.pt"
            child = [sys.executable, *sys.argv, "--measure", way, str(file)]
            grown[way] = int(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
            results[way] = torch.load(file, weights_only=True)
    expected, report = results["naive"], dict[str, object]()
    for way in WAYS:
        ratio = grown[way] / grown["naive"]
        gap = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(results[way], expected, strict=True))
        print(
            f"{way:10} {grown[way] / 2**20:8.0f} MiB, {ratio:.3f} of naive; largest difference {gap:.1e} of the largest"
        )
        report |= {f"{way}_mib": round(grown[way] / 2**20), f"{way}_ratio": round(ratio, 4), f"{way}_gap": gap}
    print(json.dumps({"tokens": args.tokens, "vocabulary": args.vocabulary, "chunk": args.chunk} | report))


if __name__ == "__main__":
    main()
