"""A tiny run folder with all that SFT and the reward model start from."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ilm_ray.alignment.conversations import tokenize_conversations
from ilm_ray.alignment.inputs import preference_file
from ilm_ray.alignment.reward.pairs import FOLDER, Pairs, PreferencePair, tokenize_pairs
from ilm_ray.config import Config, load_config
from ilm_ray.config.layout import Layout
from ilm_ray.data.tokenizer.opening import open_tokenizer
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.data.tokens.shards import write_shard
from ilm_ray.model.internlm2 import CausalLM, Shape, initialize
from ilm_ray.model.weights import save_internlm2

MICRO_TOKENS = 120
SHAPE = Shape(vocab_size=320, layers=2, hidden=64, kv_heads=2, queries_per_kv=1, head_dim=32, mlp_hidden=96)


def _message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def make_run(folder: Path) -> None:
    """Write tokenizer, token shards, models, conversations and preference pairs into `folder`."""
    (folder / "tokenizer").mkdir()
    Tokenizer([bytes([i]) for i in range(256)], SHAPE.vocab_size).save(folder / "tokenizer")
    documents = [
        {"tokens": [300, *range(i, i + 9 + i)], "bytes": 9 + i, "id": i, "url": str(i), "dump": "d"} for i in range(20)
    ]
    write_shard(folder / "tokens" / "en" / "train", 0, documents)
    model = CausalLM(SHAPE)
    initialize(model, 0)
    for stage in ("pretrain", "sft"):
        save_internlm2(model, folder / stage / "model")
    chats = [
        {"messages": [_message("user", "q" * (1 + i % 5)), _message("assistant", "a" * (3 + 7 * i % 30))]}
        for i in range(30)
    ]
    pairs = [
        {
            "domain": ("code", "helpful")[i % 2],
            "prompt": [_message("user", "q" * (1 + i % 3))],
            "chosen": "c" * (1 + i % 7),
            "rejected": "r" * (1 + i % 4),
            "split": "train" if i % 4 else "heldout",
        }
        for i in range(16)
    ]
    for name, rows in (("chat", chats), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def tokenize_chats(folder: Path, context: int = 64) -> None:
    """The conversations as the stage tokenises them, in this process."""
    tokenize_conversations(folder / "chat.jsonl", folder, context, in_process)


def tokenize_preferences(config: Config, run_dir: Path, stage: str = "reward") -> Path:
    """The preference pairs as the stage tokenises them, in this process; returns the folder of the shards."""
    folder = run_dir / stage / FOLDER
    tokenize_pairs(preference_file(config), folder, run_dir / "tokenizer", config.reward, in_process)
    return folder


def pairs_of(config: Config, tokenizer: Path, split: str, conditional: bool = True) -> list[PreferencePair]:
    """The pairs of a split as the reward model reads them. tokenizer: its folder."""
    with tempfile.TemporaryDirectory() as temporary:
        tokenize_pairs(preference_file(config), Path(temporary), tokenizer, config.reward, in_process)
        pairs = Pairs(Path(temporary), open_tokenizer(tokenizer), config.reward, conditional)
        return [pairs.pair(number) for number in getattr(pairs, split)]


def in_process(items: list[dict[str, Any]], work: Callable[[dict[str, Any]], dict[str, Any]]) -> list[dict[str, Any]]:
    """Work on chunks without Ray; receipts travel as JSON, as they do there."""
    return [json.loads(json.dumps(work(item))) for item in items]


def config_of(run_dir: Path, layout: Layout | None = None, workers: int = 1) -> Config:
    config = load_config(
        "nano",
        None,
        [
            f"sft.data={run_dir / 'chat.jsonl'}",
            f"reward.data={run_dir / 'pairs.jsonl'}",
            "sft.context=64",
            "sft.batch_tokens=300",
            "sft.pretrain_share=0.4",
            "reward.batch_tokens=400",
            "reward.context=200",
        ],
    )
    prompts = {"code": "C.", "helpful": "H."}
    training = {"micro_tokens": MICRO_TOKENS, "layout": layout or Layout(), "workers": workers, "log_every": 1}
    return config.model_copy(
        update={
            "training": config.training.model_copy(update=training),
            "reward": config.reward.model_copy(update={"system_prompts": prompts}),
        }
    )
