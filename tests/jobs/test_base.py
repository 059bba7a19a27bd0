"""Models from outside as a run's own: the same numbers as in Transformers, skipped and refused as every stage is."""

import json
import re
from pathlib import Path

import pytest
import torch

from actors.ppo.reward import Reward, RewardSettings
from actors.scoring import as_rollouts, chat_ids
from ilm_ray.alignment.reward.conditional import Conditions, load_conditions
from ilm_ray.base.errors import UserError
from ilm_ray.config import Config, load_config
from ilm_ray.data.tokenizer.opening import open_tokenizer
from ilm_ray.model.internlm2 import Packed
from ilm_ray.model.weights import load_causal, load_shape
from ilm_ray.run.journal import Journal, read_journal
from ilm_ray.run.stage import run_stage
from ilm_ray.training.plan.shape import planned_shape
from ilm_ray.training.pretrain import PretrainTask
from jobs import base, tokenizer
from tests.alignment.small_run import make_run
from tests.jobs.toy_model import toy_model

pytestmark = pytest.mark.process  # chat templates are rendered in a process of their own
CHAT = [{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "I am fine."}]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    toy_model(folder / "policy")
    toy_model(folder / "judge", "SequenceClassification", seed=1)
    toy_model(folder / "untalkative", template=None)
    return folder


def _config(models: Path, *words: str) -> Config:
    return load_config("nano", None, [f"base={models / 'policy'}", "input=null", *words])


def _bring(config: Config, run_dir: Path) -> None:
    for stage in (*base.stages(config), tokenizer.STAGE):
        stage.sources(config)
        run_stage(stage, config, run_dir, Journal(run_dir / "journal.jsonl"))


@torch.no_grad()
def test_a_brought_model_and_its_tokenizer_give_the_same_logits(models: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    theirs = AutoModelForCausalLM.from_pretrained(models / "policy")
    ids = PreTrainedTokenizerFast.from_pretrained(models / "policy").apply_chat_template(CHAT)["input_ids"]
    _bring(_config(models, "from=sft"), tmp_path)
    ours, brought = load_causal(tmp_path / "base" / "model"), open_tokenizer(tmp_path / "tokenizer")
    assert brought.encode_chat(CHAT, False)[0] == ids
    logits, rows = ours(Packed.of([ids])), theirs.config.vocab_size
    torch.testing.assert_close(logits[:, :rows], theirs(torch.tensor([ids])).logits[0], atol=1e-5, rtol=1e-5)
    # The tokenizer has one token more than the model knew; new rows are the mean, rounded up to a multiple of 64.
    embedding = ours.state_dict()["model.tok_embeddings.weight"]
    assert brought.reward_id == rows < brought.vocab_size <= len(embedding) == 448
    torch.testing.assert_close(embedding[rows:], embedding[:rows].mean(0).expand(448 - rows, -1))


@torch.no_grad()
def test_a_classifier_scores_conversations_as_transformers_does(models: Path, tmp_path: Path) -> None:
    """At the last token that the chat template writes, without conditions.

    Transformers reads tokenizer.json as it is; AutoTokenizer would exchange its pre-tokenizer for Qwen2's.
    """
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

    config = _config(models, "from=ppo", f"ppo.reward_model={models / 'judge'}")
    _bring(config, tmp_path)
    ours, folder = open_tokenizer(tmp_path / "tokenizer"), tmp_path / "base" / "reward_model"
    conditions = load_conditions(folder, ours)
    assert conditions == Conditions({}, None)
    actor = Reward(0, 1, RewardSettings(folder, 1000, "fp32", chat_ids(ours, conditions), context=512))
    actor.build()
    pairs = [{"domain": "any", "prompt": CHAT[:1], "chosen": "I am fine.", "rejected": "2 + 2"}]
    scores, _ = actor.score(as_rollouts(pairs, ours))
    theirs = AutoModelForSequenceClassification.from_pretrained(models / "judge")
    template = PreTrainedTokenizerFast.from_pretrained(models / "judge").apply_chat_template
    for number, answer in enumerate(("I am fine.", "2 + 2")):
        ids = template([CHAT[0], {"role": "assistant", "content": answer}])["input_ids"]
        assert scores[number] == pytest.approx(theirs(torch.tensor([ids])).logits.item(), abs=1e-5)
    assert abs(scores[0] - scores[1]) > 1e-3


def test_a_model_is_skipped_until_its_files_change(models: Path, tmp_path: Path) -> None:
    folder, run = tmp_path / "mine", tmp_path / "run"
    toy_model(folder)
    run.mkdir()
    config = load_config("nano", None, [f"base={folder}", "from=sft", "input=null"])
    _bring(config, run)
    _bring(config, run)
    (folder / "generation_config.json").write_text('{"eos_token_id": 1, "top_k": 3}')
    _bring(config, run)
    rows = [row for row in read_journal(run / "journal.jsonl") if row["kind"] in ("run", "skip")]
    assert [(row["kind"], row["stage"]) for row in rows] == [
        ("run", "base/model"), ("run", "tokenizer"), ("skip", "base/model"), ("skip", "tokenizer"),
        ("run", "base/model"), ("skip", "tokenizer"),
    ]  # fmt: skip
    assert rows[4]["why"] == "input 'generation_config.json' changed"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["from=sft", "base={m}/judge"], "base=.*judge is a reward model and cannot begin 'sft'"),
        (["from=ppo", "ppo.reward_model={m}/policy"], "ppo.reward_model=.*policy is no reward model"),
        (["from=sft", "base={m}/none"], "none is no folder"),
        (["from=sft", "base={m}"], "config.json"),
        (["from=sft", "base=hf://onlyaname"], "'hf://onlyaname' is no model of the Hub"),
        (["from=ppo", "base={m}/untalkative", "ppo.reward_model={m}/odd"], "odd has another tokenizer than"),
        (["from=sft", "base={m}/hostile"], "hostile: the chat template says: OverflowError"),
        (["from=sft", "base={m}/small"], "small has embeddings for 64 tokens and its tokenizer 403"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(models: Path, words: list[str], line: str) -> None:
    if "odd" in line and not (models / "odd").exists():
        toy_model(models / "odd", "SequenceClassification")
        path = models / "odd" / "tokenizer.json"
        content = json.loads(path.read_text())
        last = sorted(content["model"]["vocab"].items(), key=lambda item: item[1])[-2:]
        content["model"]["vocab"] |= {last[0][0]: last[1][1], last[1][0]: last[0][1]}  # two ids change places
        path.write_text(json.dumps(content))
    if "hostile" in line:
        toy_model(models / "hostile")
        path = models / "hostile" / "tokenizer_config.json"
        endless = "{% for i in range(10**9) %}x{% endfor %}"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": endless}))
    if "small" in line:
        toy_model(models / "small", vocab_size=64, eos_token_id=2, pad_token_id=2)
    config = _config(models, *(word.format(m=models) for word in words))
    with pytest.raises(UserError) as refused:
        for stage in base.stages(config):
            stage.sources(config)
    assert re.search(line, str(refused.value)) and "\n" not in str(refused.value)


def test_pretraining_goes_on_from_the_brought_weights(models: Path, tmp_path: Path) -> None:
    """With the phase's RoPE base and a longer context; a phase without a base keeps the model's."""
    make_run(tmp_path)
    for path in (tmp_path / "tokenizer").iterdir():
        path.unlink()
    (tmp_path / "tokens" / "en" / "heldout").mkdir()
    phase = {"name": "more", "steps": 2, "context": 16, "batch_tokens": 32, "mixture": {"en": 1.0}, "max_lr": 1e-3}
    long = {**phase, "name": "long", "context": 1024, "batch_tokens": 1024, "rope_base": 1e6}
    config = _config(models, f"pretrain.phases={json.dumps([phase, long])}", "training.workers=1")
    (tmp_path / "tokenizer").rmdir()
    _bring(config, tmp_path)
    task = PretrainTask(config, tmp_path)
    model = task.build()
    task.fill(model)
    before = load_causal(tmp_path / "base" / "model")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))
    theirs = load_shape(tmp_path / "base" / "model")
    assert task.base == tmp_path / "base" / "model" and theirs.context == 512
    assert [phase.rope_base for phase in task.phases] == [theirs.rope_base, 1e6]
    assert (model.shape.context, model.shape.rope_base) == (512, theirs.rope_base)
    planned = planned_shape(config)
    assert (planned.layers, planned.tied, planned.family, planned.context) == (2, True, "qwen2", 512)
