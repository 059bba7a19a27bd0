"""The data of pre-training is one number: any number of readers, changed at any step, reads the same batches."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from ilm_ray.base.errors import UserError
from ilm_ray.config import Config, load_config
from ilm_ray.config.load import PRESETS
from ilm_ray.config.training import PhaseConfig, TrainingConfig
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.data.tokens.shards import TokenSource
from ilm_ray.run.journal import Journal, read_journal
from ilm_ray.run.stage import Context
from ilm_ray.training.longtext_scorer import ScorerTask
from ilm_ray.training.pretrain import PretrainTask, learning_rate, long_documents, phase_mixtures
from jobs.pretrain import _look_ahead
from tests.data.tokens.made_source import make_source

PHASES = [
    {"name": "a", "steps": 3, "context": 16, "rope_base": 1e4, "batch_tokens": 256, "max_lr": 1e-3},
    {
        "name": "b",
        "steps": 4,
        "context": 32,
        "rope_base": 1e6,
        "batch_tokens": 256,
        "max_lr": 1e-3,
        "short_share": 0.5,
        "short_context": 20,
    },
]
MIXTURE = {"en": 0.6, "code": 0.4}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    Tokenizer([bytes([i]) for i in range(256)], 8192).save(folder / "tokenizer")
    generator = np.random.default_rng(1)
    lengths = generator.integers(2, 90, 60).tolist()
    en = make_source(folder / "tokens" / "en" / "train", lengths, shards=2)
    weights = generator.choice([1.0, 3.0, 1.37], 30).tolist()
    lengths = generator.integers(2, 90, 30).tolist()
    make_source(folder / "tokens" / "code" / "train", lengths, weights, en.total_tokens)
    return folder


def _config(micro_tokens: int = 64) -> Config:
    config = load_config("nano")
    values = config.model_dump()
    values["pretrain"] |= {"phases": [phase | {"mixture": MIXTURE} for phase in PHASES]}
    values["training"] |= {"workers": 1, "micro_tokens": micro_tokens}
    return Config.model_validate(values)


def _step(task: PretrainTask, step: int, ranks: int) -> list[tuple[int, ...]]:
    """The step's sequences, tokens and labels, in the order of their numbers."""
    context = task.phases[task.phase_of(step)[0]].context
    shares = []
    for rank in range(ranks):
        micros = task.micro_batches(step, rank, ranks)
        rows = [
            np.concatenate([batch.tokens.numpy().reshape(-1, context), labels.numpy().reshape(-1, context)], axis=1)
            for batch, labels in micros
        ]
        shares.append(np.concatenate(rows).tolist())
    return [tuple(row) for together in zip(*shares, strict=True) for row in together]


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_any_number_of_readers_gets_the_same_steps(run_dir: Path, ranks: int) -> None:
    alone, many = PretrainTask(_config(), run_dir), PretrainTask(_config(micro_tokens=32), run_dir)
    steps = [_step(alone, step, 1) for step in range(alone.steps)]
    assert [len(step) for step in steps] == [16] * 3 + [8] * 4
    assert [_step(many, step, ranks) for step in range(many.steps)] == steps


def test_a_run_resumed_with_other_readers_reads_on_where_it_was(run_dir: Path) -> None:
    uninterrupted = PretrainTask(_config(), run_dir)
    steps = [_step(uninterrupted, step, 1) for step in range(uninterrupted.steps)]
    for resume_at in range(1, 7):
        # A fresh task that begins in the middle, as after a crash: nothing that it knows comes from earlier steps.
        resumed = PretrainTask(_config(), run_dir)
        for step in range(resume_at, resumed.steps):
            assert _step(resumed, step, (8, 4, 2, 1)[step % 4]) == steps[step]


def test_no_token_is_left_out_or_read_twice_within_a_pass(run_dir: Path) -> None:
    """The phase's data by source is the stream of its documents: counted against the shards themselves."""
    config = _config()
    phase, mixture = config.pretrain.phases[0], phase_mixtures(config.pretrain.phases, config.seed, run_dir)[0]
    en = TokenSource(run_dir / "tokens" / "en" / "train")
    pieces = [p for i in range(phase.steps * phase.sequences) for p in mixture.pieces(i) if p.source == "en"]
    tokens = [t for p in pieces for t in en.tokens(p.document)[p.start : p.stop].tolist()]
    assert len(tokens) < en.total_tokens and len(set(tokens)) == len(tokens)


def test_marks_of_long_text_rule_phase_two_and_foreign_ones_are_refused(run_dir: Path, tmp_path: Path) -> None:
    sources = {name: TokenSource(run_dir / "tokens" / name / "train") for name in ("en", "code")}
    assert long_documents(tmp_path / "long_text", sources) == {}
    marks = np.arange(60) % 9 == 0
    folder = tmp_path / "long_text" / "en" / "train"
    folder.mkdir(parents=True)
    for number, part in enumerate(np.array_split(marks, 2)):
        np.save(folder / f"shard-{number:05d}.long.npy", part)
    documents = long_documents(tmp_path / "long_text", sources)
    assert documents.keys() == {"en"} and documents["en"].tolist() == marks.tolist()
    (tmp_path / "tokens").symlink_to(run_dir / "tokens")
    config = _config()
    mixture = phase_mixtures(config.pretrain.phases, config.seed, tmp_path)[1]
    drawn = {d.source: d for d in mixture.drawn(32) if d.kind == "long"}
    assert drawn["en"].documents == marks.sum()
    assert drawn["code"].documents == (sources["code"].lengths >= 20).sum()
    np.save(folder / "shard-00001.long.npy", marks)
    with pytest.raises(UserError, match="does not belong to the run's tokens"):
        long_documents(tmp_path / "long_text", sources)
    (folder / "shard-00001.long.npy").unlink()
    with pytest.raises(UserError, match="does not belong to the run's tokens"):
        long_documents(tmp_path / "long_text", sources)


def test_a_scorer_is_trained_beside_marks_that_a_killed_stage_left_half_written(run_dir: Path, tmp_path: Path) -> None:
    for stage in ("tokens", "tokenizer"):
        (tmp_path / stage).symlink_to(run_dir / stage)
    folder = tmp_path / "long_text" / "en" / "train"
    folder.mkdir(parents=True)
    np.save(folder / "shard-00000.long.npy", np.zeros(30, bool))
    marked, unmarked = (ScorerTask(_config(), run).micro_batches(0, 0, 1) for run in (tmp_path, run_dir))
    assert [p.tokens.tolist() for p, _ in marked] == [p.tokens.tolist() for p, _ in unmarked]


def test_what_will_be_drawn_is_said_beforehand(run_dir: Path, tmp_path: Path) -> None:
    values = _config().model_dump()
    for phase, steps in zip(values["pretrain"]["phases"], (300, 4), strict=True):
        phase |= {"steps": steps}
    config = Config.model_validate(values)
    journal = Journal(tmp_path / "journal.jsonl")
    rows = _look_ahead(Context(config, tmp_path, run_dir, journal))
    values["pretrain"]["phases"][0]["mixture"] = MIXTURE | {"zh": 0.5}
    with pytest.raises(UserError, match="phase a names zh, and the corpus holds no token of that"):
        _look_ahead(Context(Config.model_validate(values), tmp_path, run_dir, journal))
    for phase in config.pretrain.phases:
        tokens = {
            source: sum(r["tokens"] for r in rows if (r["phase"], r["source"]) == (phase.name, source))
            for source in MIXTURE
        }
        assert tokens["en"] == pytest.approx(phase.steps * phase.batch_tokens * 0.6, abs=2 * phase.context)
        assert sum(tokens.values()) == phase.steps * phase.batch_tokens
    (first,) = [row for row in rows if row["phase"] == "a" and row["source"] == "code"]
    assert first["reads_by_weight"]["3"] == pytest.approx(3 * first["passes"], rel=1e-3)
    reasons = [(event["phase"], event["why"]) for event in read_journal(journal.path)]
    (repeated,) = [why for phase, why in reasons if phase == "a" and why.startswith("code")]
    assert f"are read {first['passes']:.1f} times" in repeated


def scheduled(steps: int, peak: float, warmup: int, final: float) -> list[float]:
    """The rates of torch's own schedulers: linear warm-up, then a cosine down to final * peak."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=peak)
    warm = LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
    decay = CosineAnnealingLR(optimizer, T_max=steps - 1 - warmup, eta_min=final * peak)
    schedule, rates = SequentialLR(optimizer, [warm, decay], [warmup]), list[float]()
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize(
    ("peaks", "cosines"),
    [
        ((3e-4, None, 3e-5), [(50, 3e-4), (25, 3e-5)]),  # the report's
        ((3e-4, 2e-4, 1e-4), [(30, 3e-4), (20, 2e-4), (25, 1e-4)]),  # nano's
        ((3e-4, None, None), [(75, 3e-4)]),
    ],
)
def test_phases_without_a_rate_share_the_cosine_of_the_one_before(
    peaks: tuple[float | None, ...], cosines: list[tuple[int, float]]
) -> None:
    shared = {"context": 16, "rope_base": 1e4, "mixture": {"en": 1.0}, "batch_tokens": 16}
    phases = [
        PhaseConfig.model_validate({"name": f"{steps}", "steps": steps, "max_lr": peak, **shared})
        for steps, peak in zip((30, 20, 25), peaks, strict=True)
    ]
    training = TrainingConfig(warmup_ratio=0.1, final_lr_ratio=0.1)
    ours = [learning_rate(phases, training, step) for step in range(75)]
    theirs = [rate for steps, peak in cosines for rate in scheduled(steps, peak, round(steps * 0.1), 0.1)]
    assert ours == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("preset", [preset for preset in PRESETS if preset != "nano"])
def test_the_rate_of_the_reports_presets_has_no_jump_where_the_context_grows(preset: str) -> None:
    config = load_config(preset)
    phases, training = config.pretrain.phases, config.training
    first, second, _ = itertools.accumulate(phase.steps for phase in phases)
    rates = {step: learning_rate(phases, training, step) for step in (first - 1, first, second - 1, second)}
    assert rates[first] == pytest.approx(rates[first - 1], rel=1e-3) and rates[first] < rates[first - 1]
    peak = max(learning_rate(phases, training, step) for step in range(0, first, 10))
    assert rates[second - 1] == pytest.approx(peak / 10, rel=1e-3)  # at the end of the long contexts
    assert max(learning_rate(phases, training, second + step) for step in range(0, 2000, 10)) < peak / 9.9


def test_a_first_phase_without_a_rate_is_refused() -> None:
    phase = "{name: a, steps: 1, context: 16, rope_base: 2.0, batch_tokens: 1024, mixture: {en: 1}}"
    with pytest.raises(UserError, match="phase a: the first phase needs max_lr"):
        load_config("nano", overrides=[f"pretrain.phases=[{phase}]"])
