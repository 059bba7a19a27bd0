"""Tokenizers of strangers: every file is opened or refused, and an opened one encodes without a special id."""

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ilm_ray.data.tokenizer.brought import BroughtTokenizer
from ilm_ray.data.tokenizer.opening import bring_tokenizer
from tests.data.tokenizer.brought import CHATML, byte_level, publish, spaced
from tests.fuzz.limits import few, refusals
from tests.fuzz.made import damaged, rewritten, texts

JSON, CONFIG = "tokenizer.json", "tokenizer_config.json"


@functools.cache
def whole(kind: str) -> dict[str, Any]:
    """The two files of a small tokenizer, as JSON values."""
    with tempfile.TemporaryDirectory() as folder:
        made = byte_level() if kind == "bytes" else spaced()
        publish(Path(folder), made, CHATML, begins=True, add_bos_token=True, additional_special_tokens=["<|user|>"],
                added_tokens_decoder={"1": {"content": "<s>", "special": True, "lstrip": False}})  # fmt: skip
        return {name: json.loads((Path(folder) / name).read_text(encoding="utf-8")) for name in (JSON, CONFIG)}


@st.composite
def folders(draw: st.DrawFn) -> dict[str, bytes]:
    files = whole(draw(st.sampled_from(["bytes", "spaces"])))
    content, config = files[JSON], files[CONFIG]
    how = draw(st.sampled_from(["part", "config", "bytes", "config bytes", "added"]))
    if how == "part":  # not the vocabulary's hundreds of rows, which would be all that is drawn
        part = draw(st.sampled_from(["normalizer", "pre_tokenizer", "decoder", "post_processor", "truncation"]))
        content = content | {part: draw(rewritten(content[part] or {"type": "NFKC"}))}
    elif how == "added":
        content = content | {"added_tokens": draw(rewritten(content["added_tokens"][:4]))}
    elif how == "config":
        config = draw(rewritten(config))
    written = {name: json.dumps(value).encode() for name, value in ((JSON, content), (CONFIG, config))}
    broken = {"bytes": JSON, "config bytes": CONFIG}.get(how)
    return written | {broken: draw(damaged([written[broken]]))} if broken else written


def of_config(**changes: Any) -> dict[str, bytes]:
    files = whole("bytes")
    return {JSON: json.dumps(files[JSON]).encode(), CONFIG: json.dumps(files[CONFIG] | changes).encode()}


@pytest.mark.long
@given(st.deferred(folders), texts)
@example(of_config(eos_token={"content": ["</s>"]}), "a")
@example(of_config(added_tokens_decoder={"9" * 5000: {"content": "x"}}), "a")
@example(of_config(added_tokens_decoder=None, chat_template=None), "a")
@example(of_config(chat_template="\ud800"), "a")
@few(40)
def test_a_brought_tokenizer_is_opened_or_refused(files: dict[str, bytes], text: str) -> None:
    with tempfile.TemporaryDirectory() as folder, refusals():
        (Path(folder) / "source").mkdir()
        for name, content in files.items():
            (Path(folder) / "source" / name).write_bytes(content)
        brought = bring_tokenizer(Path(folder) / "source", Path(folder) / "run").tokenizer
        assert isinstance(brought, BroughtTokenizer)
        specials = {item.id for item in brought.specials.added.values() if item.special}
        unknown = brought.specials.added.get("<unk>")
        assert (specials - {unknown.id if unknown else None}).isdisjoint(brought.encode(text))
        brought.decode(brought.encode_document(text).tolist())
        assert len(brought.byte_lengths()) == brought.vocab_size
