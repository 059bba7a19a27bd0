"""Tokenizers that people bring: the ids, bytes and texts of transformers, and refusals in one line."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.base.errors import UserError
from ilm_ray.data.tokenizer import documented
from ilm_ray.data.tokenizer.brought import BroughtTokenizer
from ilm_ray.data.tokenizer.chat import encode_chat
from ilm_ray.data.tokenizer.opening import bring_tokenizer, open_tokenizer, require_fit
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from tests.data.tokenizer.brought import CHATML, CORPUS, SPECIALS, byte_level, publish, spaced

KINDS: dict[str, Callable[[], Any]] = {
    "byte level": byte_level,
    "sentencepiece style": spaced,
    "metaspace": lambda: spaced(legacy=False),
}
TEXT = st.lists(
    st.one_of(
        st.sampled_from([*SPECIALS, " ", "\n", "\n\n", "  ", "▁", "<0x0A>", "e\u0301", "😀"]), st.text(max_size=6)
    ),
    max_size=6,
).map("".join)


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("model"), KINDS[request.param](), CHATML, begins=True)


@pytest.fixture(scope="module")
def ours(folder: Path) -> BroughtTokenizer:
    opened = open_tokenizer(folder)
    assert isinstance(opened, BroughtTokenizer)
    return opened


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@given(TEXT)
def test_texts_have_the_ids_of_transformers_and_no_special_one(ours: BroughtTokenizer, theirs: Any, text: str) -> None:
    ids = ours.encode(text)
    assert ids == theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    named = {ours.special(name) for name in SPECIALS if name != "<unk>"}
    assert named.isdisjoint(ids)
    assert ours.decode(ids) == theirs.decode(ids)
    document = ours.encode_document(text)
    assert document.dtype == np.uint32 and document.tolist() == [ours.bos_id, *ids, ours.eos_id]


@given(TEXT)
def test_byte_lengths_add_up_to_the_text(ours: BroughtTokenizer, text: str) -> None:
    """Vocabularies in sentencepiece's style set a space in front of the text, and write their sign for one as one."""
    ids, lengths = ours.encode(text), ours.byte_lengths()
    assert lengths.shape == (ours.vocab_size,) and lengths.dtype == np.int64
    assert not lengths[[ours.special(name) for name in SPECIALS]].any()
    if ours.special("<unk>") in ids:
        return
    byte_level = ours.decode(ours.encode("▁")) == "▁"
    spaces = 0 if byte_level else int(lengths[ids].sum()) - len(text.replace("▁", " ").encode())
    assert spaces in (0, 1)
    if byte_level:
        assert lengths[ids].sum() == len(text.encode())


def test_a_document_begins_only_where_the_model_says_so(tmp_path: Path) -> None:
    plain = open_tokenizer(publish(tmp_path / "plain", byte_level(), None))
    assert plain.encode_document("a").tolist() == [*plain.encode("a"), plain.eos_id]
    saying = open_tokenizer(publish(tmp_path / "saying", byte_level(), None, add_bos_token=True))
    assert saying.encode_document("a").tolist() == [saying.bos_id, *saying.encode("a"), saying.eos_id]
    none = open_tokenizer(publish(tmp_path / "none", byte_level(), None, bos_token=None))
    assert none.bos_id == none.eos_id and not none.begins_documents


def test_names_that_only_the_configuration_calls_special_stay_text(tmp_path: Path) -> None:
    made = byte_level()
    made.add_tokens(["<sep>"])
    opened = open_tokenizer(publish(tmp_path, made, None, additional_special_tokens=["<sep>"]))
    assert opened.special("<sep>") not in opened.encode("a<sep>b") and opened.decode(opened.encode("<sep>")) == "<sep>"


def test_a_model_without_template_gets_chatml_and_its_tokens(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    source, messages = tmp_path / "source", [{"role": "user", "content": "Hi <|end|>"}]
    made = byte_level()
    made.add_special_tokens(["<s>", "</s>"])
    source.mkdir()
    made.save(str(source / "tokenizer.json"))
    (source / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    brought = bring_tokenizer(source, tmp_path / "run")
    size = made.get_vocab_size()
    assert brought.added_tokens == {"<|im_start|>": size, "<|im_end|>": size + 1, "<|reward|>": size + 2}
    assert brought.tokenizer.vocab_size == size + 3 and brought.tokenizer.reward_id == size + 2
    require_fit(brought.tokenizer, size + 3, "the model")
    with pytest.raises(UserError, match=f"the model has embeddings for {size} tokens and its tokenizer {size + 3}"):
        require_fit(brought.tokenizer, size, "the model")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert theirs.convert_tokens_to_ids(list(brought.added_tokens)) == list(brought.added_tokens.values())
    assert theirs.chat_template and theirs.apply_chat_template(messages, tokenize=False).startswith(
        "<|im_start|>user\n"
    )
    again = bring_tokenizer(tmp_path / "run", tmp_path / "again")
    assert again.added_tokens == {}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_an_unused_token_of_the_model_is_the_reward_token(tmp_path: Path) -> None:
    made = byte_level()
    made.add_special_tokens(["<|other|>", "<|reserved_special_token_3|>", "<|reserved_special_token_4|>"])
    brought = bring_tokenizer(publish(tmp_path / "source", made, CHATML), tmp_path / "run")
    assert brought.added_tokens == {}
    assert brought.tokenizer.reward_id == made.token_to_id("<|reserved_special_token_3|>")
    for path in (tmp_path / "source").iterdir():
        assert (tmp_path / "run" / path.name).read_bytes() == path.read_bytes()


def test_our_own_vocabulary_is_opened_and_brought(tmp_path: Path) -> None:
    own = Tokenizer([bytes([i]) for i in range(256)], 300)
    own.save(tmp_path / "own")
    brought = bring_tokenizer(tmp_path / "own", tmp_path / "run")
    assert isinstance(open_tokenizer(tmp_path / "run"), Tokenizer) and brought.added_tokens == {}
    with pytest.raises(UserError, match=r"no tokenizer at .*run jobs/tokenizer\.py"):
        open_tokenizer(tmp_path / "nothing")
    with pytest.raises(UserError, match="has no tokenizer"):
        bring_tokenizer(tmp_path / "nothing", tmp_path / "run")


def test_damaged_files_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, byte_level(), CHATML)
    path, config = tmp_path / "tokenizer.json", tmp_path / "tokenizer_config.json"
    whole, settings = path.read_bytes(), config.read_text()

    def refused(file: Path, data: bytes, problem: str) -> None:
        kept = file.read_bytes() if file.exists() else None
        file.write_bytes(data)
        with pytest.raises(UserError, match=problem):
            open_tokenizer(tmp_path)
        file.unlink() if kept is None else file.write_bytes(kept)

    content = json.loads(whole)
    for broken in (
        whole[:-50],
        b"[]",
        b"{}",
        b'{"model": 3}',
        b"[" * 100_000,
        b"\xff\xfe",
        whole.replace(b'"BPE"', b'"X"'),
    ):
        refused(path, broken, "is no tokenizer")
    refused(path, json.dumps(content | {"model": content["model"] | {"dropout": 0.1}}).encode(), "sampled")
    refused(path, json.dumps(content | {"decoder": None, "pre_tokenizer": None}).encode(), "neither byte-level nor")
    refused(config, b"{", "tokenizer_config.json cannot be read")
    refused(config, json.dumps(json.loads(settings) | {"eos_token": "<none>"}).encode(), "no eos_token")
    refused(config, json.dumps(json.loads(settings) | {"chat_template": 3}).encode(), "neither a text")
    refused(config, json.dumps(json.loads(settings) | {"added_tokens_decoder": {"x": {}}}).encode(), "the row 'x'")
    refused(tmp_path / "chat_template.jinja", b"\xff", "no text in UTF-8")
    refused(tmp_path / "chat_template.jinja", b" " * 300_000, "300000 characters")
    monkeypatch.setitem(documented.LARGEST, "tokenizer.json", 1 << 10)
    with pytest.raises(UserError, match="has more than"):
        open_tokenizer(tmp_path)


@pytest.fixture(scope="module", params=[True, False], ids=["dummy prefix", "no prefix"])
def released(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with sentencepiece's tokenizer.model and added tokens over unused pieces, as InternLM2's; its model."""
    import sentencepiece

    folder, model = tmp_path_factory.mktemp("released"), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(CORPUS).split("\n")), model_writer=model, vocab_size=400, model_type="bpe",
        byte_fallback=True, add_dummy_prefix=request.param, remove_extra_whitespaces=False, num_threads=1,
        user_defined_symbols=[f"[UNUSED_TOKEN_{i}]" for i in range(3)], normalization_rule_name="identity",
        minloglevel=2, character_coverage=1.0, hard_vocab_limit=False,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    loaded = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    names = ("<|im_start|>", "<|im_end|>")
    rows = {
        loaded.piece_to_id(f"[UNUSED_TOKEN_{i}]"): {"content": name, "special": True} for i, name in enumerate(names)
    }
    config = {"added_tokens_decoder": rows, "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder, loaded


@given(TEXT)
def test_a_sentencepiece_model_gives_its_own_ids(released: tuple[Path, Any], text: str) -> None:
    folder, model = released
    opened = _opened(folder)
    ids = opened.encode(text)
    assert ids == model.encode(text)
    assert opened.decode(ids) == model.decode(ids)
    assert opened.encode_document(text).tolist() == [model.bos_id(), *ids, model.eos_id()]
    if model.unk_id() not in ids:
        assert opened.byte_lengths()[ids].sum() - len(text.replace("▁", " ").encode()) in (0, 1)


def test_pieces_that_became_special_tokens_are_none_of_a_text(released: tuple[Path, Any], tmp_path: Path) -> None:
    folder, model = released
    opened = _opened(folder)
    start = model.piece_to_id("[UNUSED_TOKEN_0]")
    assert opened.special("<|im_start|>") == start and opened.decode([start]) == "<|im_start|>"
    assert start in model.encode("a[UNUSED_TOKEN_0]b")
    assert opened.reward_id == model.piece_to_id("[UNUSED_TOKEN_2]")
    for text in ("a[UNUSED_TOKEN_0]b", "<|im_start|>", "[UNUSED_TOKEN_2]"):
        assert {start, opened.reward_id}.isdisjoint(opened.encode(text)) and opened.decode(opened.encode(text)) == text
    (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes()[:-9])
    with pytest.raises(UserError, match="no sentencepiece model"):
        open_tokenizer(tmp_path)


@pytest.mark.process
def test_a_conversation_of_a_sentencepiece_model(released: tuple[Path, Any]) -> None:
    """By hand: each stretch between special tokens, and the answer without a space in front, as it is generated."""
    folder, model = released
    opened = _opened(folder)
    start, end = opened.special("<|im_start|>"), opened.special("<|im_end|>")
    talk = [{"role": "user", "content": "Hello [UNUSED_TOKEN_0]"}, {"role": "assistant", "content": "the user"}]
    ids, mask = encode_chat(opened, talk)
    said = [i for i, m in zip(ids, mask, strict=True) if m]
    assert model.decode(said[:-1]) == "the user" and said[-1] == end
    assert "".join(model.id_to_piece(said[:-1])) == "the▁user"  # no space in front, though the model adds one to texts
    head, newline = model.encode("assistant\n"), model.encode("\n")
    question = opened.encode("user\nHello [UNUSED_TOKEN_0]")
    assert ids == [start, *question, end, *newline, start, *head, *said, *newline]


def _opened(folder: Path) -> BroughtTokenizer:
    opened = open_tokenizer(folder)
    assert isinstance(opened, BroughtTokenizer)
    return opened
