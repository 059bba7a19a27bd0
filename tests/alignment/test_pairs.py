"""Preference pairs are tokenised once, in chunks: against each pair encoded and cut alone."""

from itertools import chain
from pathlib import Path

import pytest

from ilm_ray.alignment import chunks
from ilm_ray.alignment.inputs import preference_file
from ilm_ray.alignment.reward.conditional import condition_prefix, conditioned
from ilm_ray.alignment.reward.pairs import FOLDER, Pairs, tokenize_pairs
from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import read_jsonl, write_jsonl
from ilm_ray.data.tokenizer.chat import encode_chat
from ilm_ray.data.tokenizer.opening import open_tokenizer
from tests.alignment.small_run import config_of, in_process, make_run


@pytest.fixture()
def run(tmp_path: Path) -> Path:
    make_run(tmp_path)
    return tmp_path


@pytest.mark.parametrize("rows_a_chunk", [1, 5, 100])
@pytest.mark.parametrize("context", [24, 27, 200])
@pytest.mark.parametrize("conditional", [True, False])
def test_each_pair_is_what_it_is_alone(
    rows_a_chunk: int, context: int, conditional: bool, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks.chunks_of, "__defaults__", (rows_a_chunk,))
    config = config_of(run)
    reward = config.reward.model_copy(update={"context": context})
    unread, files = tokenize_pairs(preference_file(config), run / FOLDER, run / "tokenizer", reward, in_process)
    tokenizer, rows = open_tokenizer(run / "tokenizer"), list(read_jsonl(preference_file(config)))
    pairs = Pairs(run / FOLDER, tokenizer, reward, conditional)
    assert unread == {} and len(pairs) == len(rows)
    assert len([path for path in files if path.name.endswith(".split.npy")]) == -(-len(rows) // rows_a_chunk)
    longer = 0
    for number, row in enumerate(rows):
        prefix = condition_prefix(tokenizer, reward.system_prompts[row["domain"]]) if conditional else []
        expected = []
        for answer in (row["chosen"], row["rejected"]):
            whole = encode_chat(tokenizer, [*row["prompt"], {"role": "assistant", "content": answer}]).ids
            expected.append(conditioned(prefix, whole, tokenizer.reward_id, context))
            longer += len(prefix) + len(whole) + 1 > context and answer == row["chosen"]
        made = pairs.pair(number)
        assert [made.chosen, made.rejected] == expected and made.domain == row["domain"]
        assert pairs.lengths[number] == sum(map(len, expected)) and max(map(len, expected)) <= context
        assert made.answer_tokens == tuple(len(tokenizer.encode(row[name])) for name in ("chosen", "rejected"))
    by_split = {split: [i for i, row in enumerate(rows) if row["split"] == split] for split in ("train", "heldout")}
    assert (pairs.train.tolist(), pairs.heldout.tolist()) == (by_split["train"], by_split["heldout"])
    assert pairs.cut >= longer and (context < 200) == (pairs.cut > 0)


def test_fields_that_nothing_reads_are_counted(run: Path) -> None:
    config, path = config_of(run), run / "pairs.jsonl"
    rows = list(read_jsonl(path))
    rows[2]["source"] = rows[3]["source"] = "x"
    rows[4]["prompt"][0]["mood"] = "kind"
    write_jsonl(path, rows)
    unread, _ = tokenize_pairs(path, run / FOLDER, run / "tokenizer", config.reward, in_process)
    assert unread == {"messages.mood": 1, "source": 2}


def test_a_condition_that_leaves_no_room_is_refused(run: Path) -> None:
    reward = config_of(run).reward.model_copy(update={"context": 12})
    tokenize_pairs(run / "pairs.jsonl", run / FOLDER, run / "tokenizer", reward, in_process)
    with pytest.raises(UserError, match=r"reward\.context=12 has no room for a conversation"):
        Pairs(run / FOLDER, open_tokenizer(run / "tokenizer"), reward)


def test_steps_cover_the_training_pairs_alone(run: Path) -> None:
    config = config_of(run)
    tokenize_pairs(run / "pairs.jsonl", run / "reward" / FOLDER, run / "tokenizer", config.reward, in_process)
    from ilm_ray.alignment.reward.task import RewardTask

    task = RewardTask(config, run)
    micros = [task.micro_batches(step, 0, 1) for step in range(task.steps)]
    seen = sorted((pair.domain, len(pair.chosen), len(pair.rejected)) for micro in chain(*micros) for pair in micro)
    expected = [task.pairs.pair(number) for number in task.pairs.train]
    once = [(pair.domain, len(pair.chosen), len(pair.rejected)) for pair in expected]
    assert seen == sorted(once * config.reward.epochs)
