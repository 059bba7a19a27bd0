"""Pre-training on real text without the stages before it: a run folder with byte tokens of public-domain books."""

from pathlib import Path
from typing import Any

from ilm_ray.config import Config, load_config
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.data.tokens.shards import write_shard
from ilm_ray.training.pretrain import PretrainTask

VOCABULARY = 320


def write_real_run(run_dir: Path, shared_data: Path) -> Path:
    """Tokenizer and token shards of two books in `run_dir`."""
    (run_dir / "tokenizer").mkdir(parents=True)
    Tokenizer([bytes([i]) for i in range(256)], VOCABULARY).save(run_dir / "tokenizer")
    for source, file in (("en", "books_en/6527.txt"), ("code", "books_en/972.txt")):
        data = (shared_data / "text" / file).read_bytes()[:200_000]
        documents = [list(data[i : i + 700]) for i in range(0, len(data), 700)]
        for split, some in (("train", documents[10:]), ("heldout", documents[:10])):
            rows = [{"tokens": t, "bytes": len(t), "id": i, "url": file, "dump": "d"} for i, t in enumerate(some)]
            write_shard(run_dir / "tokens" / source / split, 0, rows)
    return run_dir


def real_config(steps: int, workers: int, *more: str) -> Config:
    """16 sequences of 64 tokens a step, one phase, AdamW in fp32, every step logged."""
    phase = "batch_tokens: 1024, max_lr: 0.003, mixture: {en: 0.5, code: 0.5}"
    return load_config(
        "nano",
        None,
        [
            f"pretrain.phases=[{{name: only, steps: {steps}, context: 64, rope_base: 10000.0, {phase}}}]",
            "model={layers: 4, hidden: 64, kv_heads: 2, queries_per_kv: 2, head_dim: 16, mlp_hidden: 96}",
            f"tokenizer.vocab_size={VOCABULARY}",
            f"training.workers={workers}",
            "training.micro_tokens=64",
            "training.log_every=1",
            *more,
        ],
    )


class Recording(PretrainTask):
    """Writes down which sequences each rank reads in each step."""

    def micro_batches(self, step: int, rank: int, ranks: int) -> list[Any]:
        micros = super().micro_batches(step, rank, ranks)
        with (self.folder / f"read-{rank}-of-{ranks}.txt").open("a") as out:
            for batch, _ in micros:
                for row in batch.tokens.view(-1, 64).tolist():
                    out.write(f"{step} {bytes(row).hex()}\n")
        return micros


def recording(folder: Path) -> Any:
    """A task maker for `run_training` whose tasks write into `folder`."""

    def make(config: Config, run_dir: Path) -> Recording:
        task = Recording(config, run_dir)
        task.folder = folder
        return task

    return make


def read_sequences(folder: Path, step: int) -> list[str]:
    """Sequences that all replicas together read in a step; workers of one replica read the same."""
    rows = {line for path in folder.glob("read-*.txt") for line in path.read_text().splitlines()}
    return sorted(line.split()[1] for line in rows if line.split()[0] == str(step))
