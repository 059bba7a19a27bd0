"""SFT learns from the assistant's tokens of any conversation, and from repositories beside the pre-training mixture."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ilm_ray.alignment.pretrain_data import pretrain_mix
from ilm_ray.alignment.repositories import SOURCE, open_repositories, tokenize_repositories
from ilm_ray.alignment.sft import SFTTask, chat_labels
from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import write_jsonl
from ilm_ray.data.tokenizer.chat import encode_chat
from ilm_ray.data.tokenizer.messages import Message
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.model.internlm2 import Packed
from ilm_ray.model.loss import IGNORE
from ilm_ray.training.pretrain import open_sources
from tests.alignment.small_run import config_of, make_run, tokenize_chats

TOKENIZER = Tokenizer([bytes([i]) for i in range(256)], 300)
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["<|im_end|>\n<|im_start|>assistant\n", "assistant\n", "<|action_end|>"]
)
_TOOL = st.sampled_from(["interpreter", "plugin"])
_MESSAGE = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "environment", "assistant"]), "content": _TEXT}),
    st.fixed_dictionaries({"role": st.sampled_from(["system", "environment"]), "content": _TEXT, "name": _TOOL}),
    st.fixed_dictionaries(
        {
            "role": st.just("assistant"),
            "content": _TEXT,
            "action": st.fixed_dictionaries({"name": _TOOL, "content": _TEXT}),
        }
    ),
)


def _assistant_positions(ids: list[int]) -> list[int]:
    """By reading the tokens alone: what follows `<|im_start|>assistant\\n`, its end token included."""
    counted, at = list[int](), 0
    header = [TOKENIZER.im_start_id, *b"assistant\n"]
    while at < len(ids):
        if ids[at] == TOKENIZER.im_start_id:
            end = ids.index(TOKENIZER.im_end_id, at)
            if ids[at : at + len(header)] == header:
                counted += range(at + len(header), end + 1)
            at = end
        at += 1
    return counted


@settings(max_examples=200)
@given(st.lists(_MESSAGE, min_size=1, max_size=6))
def test_the_loss_sees_the_assistants_tokens_and_no_other(messages: list[Message]) -> None:
    chat = encode_chat(TOKENIZER, messages)
    counted = _assistant_positions(chat.ids)
    assert len(counted) >= sum(m["role"] == "assistant" for m in messages)  # at least the end of each message
    expected = np.full(len(chat.ids), IGNORE)
    for position in counted:
        expected[position - 1] = chat.ids[position]
    assert chat_labels(chat.ids, chat.loss_mask).tolist() == expected.tolist()


def _document(number: int, repository: str, *paths: str) -> dict[str, object]:
    files = [{"path": path, "start": 0, "end": 5} for path in paths]
    about = {"url": f"{repository}#{number}", "dump": "code", "repository": repository, "files": files}
    return {"id": number, **about, "text": f"document {number} of {repository} " * 5}


@pytest.fixture()
def code_run(tmp_path: Path) -> Path:
    """A run whose code stage left both forms, and whose decontamination removed document 11 of the first."""
    make_run(tmp_path)
    tokenize_chats(tmp_path)
    kept = [_document(11, "leaky", "a.py", "b.py"), _document(12, "clean", "a.py")]
    tuned = [
        _document(21, "leaky", "b.py", "c.py"),
        _document(22, "leaky", "d.py"),
        _document(23, "clean", "a.py", "b.py"),
    ]
    write_jsonl(tmp_path / "code" / "kept-00000.jsonl.zst", kept)
    write_jsonl(tmp_path / "code" / "finetuning-00000.jsonl.zst", tuned[:1])
    write_jsonl(tmp_path / "code" / "finetuning-00001.jsonl.zst", tuned[1:])
    write_jsonl(tmp_path / "decontamination" / "removed-00000.jsonl.zst", [{"stage": "code", "id": 11}])
    return tmp_path


def test_repositories_take_their_share_of_the_pre_training_data(code_run: Path, local_ray: None) -> None:
    written = tokenize_repositories(code_run)
    before = [path.stat().st_mtime_ns for path in written]
    assert tokenize_repositories(code_run) == written
    assert [path.stat().st_mtime_ns for path in written] == before  # done once
    repositories = open_repositories(code_run)
    # The leaky repository loses the document that shares a file with the removed one; the other document stays.
    assert repositories is not None and repositories.ids.tolist() == [22, 23]
    assert repositories.provenance(0)["repository"] == "leaky"
    config = config_of(code_run)
    mix = pretrain_mix(config, None, config.sft.context, code_run)
    assert set(mix.sources()) == {"en", SOURCE} and mix.shares == {"en": 0.5, SOURCE: 0.5}
    task = SFTTask(config, code_run)
    drawn = {part.source: part.sequences for part in task.mixture.drawn(400)}
    assert drawn == {"en": 200, SOURCE: 200}
    # The tokens that a step reads are those of the documents.
    texts = [repositories.tokens(i).tolist() for i in range(2)]
    pieces = [p for i in range(task.mixed) for p in task.mixture.pieces(i) if p.source == SOURCE]
    packed = [ids.tolist() for batch, _ in task.micro_batches(0, 0, 1) for ids in _documents(batch)]
    assert pieces and all(texts[p.document][p.start : p.stop] in packed for p in pieces)


def _documents(batch: Packed) -> tuple[Tensor, ...]:
    return batch.tokens.split(batch.cu_seqlens.diff().tolist())


def test_without_repositories_the_mixture_is_the_last_phases(run_dir: Path) -> None:
    config = config_of(run_dir)
    mix = pretrain_mix(config, None, config.sft.context, run_dir)
    assert open_repositories(run_dir) is None
    assert mix.shares == {"en": config.pretrain.phases[-1].mixture["en"]} and set(mix.sources()) == {"en"}


def test_the_mix_is_of_documents_that_the_run_judged_long(run_dir: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(run_dir, tmp_path / "run")
    config = config_of(run_dir)
    source = open_sources(run_dir / "tokens", "train")["en"]
    marks = source.lengths >= np.sort(source.lengths)[-3]
    folder, first = run_dir / "long_text" / "en" / "train", 0
    folder.mkdir(parents=True)
    for stem in source.shards:
        count = len(np.load(run_dir / "tokens" / "en" / "train" / f"{stem}.offsets.npy")) - 1
        np.save(folder / f"{stem}.long.npy", marks[first : first + count])
        first += count
    mix = pretrain_mix(config, None, 32, run_dir)
    few = mix.open(5, 4)
    assert few.notes == [] and {p.document for i in range(4) for p in few.pieces(i)} <= set(np.flatnonzero(marks))
    many = mix.open(5, 10**6)  # three documents would be read thousands of times
    assert "take their place" in many.notes[0]
    assert {p.document for i in range(400) for p in many.pieces(i)} == set(range(len(source)))
    with pytest.raises(UserError, match=r"names books, and the run holds no token of that \(it has en\)"):
        pretrain_mix(config, {"books": 1.0, "en": 1.0}, 32, run_dir)
