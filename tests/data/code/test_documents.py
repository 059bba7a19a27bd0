"""Repository documents: everything once, whole, where the spans say; prompts for fine-tuning."""

import itertools
import json
import time

from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.data.code.documents import JoinedFiles, join_sections, repository_documents
from ilm_ray.data.code.files.detect import language_of
from ilm_ray.data.code.files.forms import CodeText, section
from ilm_ray.data.code.prompts import MAX_SUMMARY, file_prompt, prompted_documents, repository_prompt, summarize
from ilm_ray.data.code.tokens import count_tokens


def _words(text: str) -> int:
    return len(text.split())


@given(st.lists(st.text(alphabet="ab \n", min_size=1, max_size=60)), st.integers(1, 20))
def test_documents_hold_every_section_once_and_whole(texts: list[str], limit: int) -> None:
    sections = [(f"{i}.py", text) for i, text in enumerate(texts)]
    documents = list(join_sections(sections, _words, limit))
    assert [(s.path, d.text[s.start : s.end]) for d in documents for s in d.spans] == sections
    assert all(_words(document.text) <= limit or len(document.spans) == 1 for document in documents)
    for document, following in itertools.pairwise(documents):  # full: the next section has no room
        head = following.spans[0]
        assert _words(document.text) + _words(following.text[head.start : head.end]) > limit
    whole = list(repository_documents("repo", documents))
    assert len({document.id for document in whole}) == len({document.url for document in whole}) == len(whole)
    assert all(document.columns["repository"] == "repo" for document in whole)


def test_special_tokens_in_code_are_counted_as_text() -> None:
    assert count_tokens("<|endoftext|>") > 1
    assert count_tokens("def f():\n    return 1\n") < 12


_TEXTS = {
    "README.md": "# Tool\n\n[![badge](x)](y)\n\nA small tool that counts words. It is fast.\n",
    "tool/__init__.py": "",
    "tool/cli.py": '"""Command line of the tool.\n\nMore.\n"""\nfrom tool.core import count\n',
    "tool/core.py": "# Copyright 2020 me\ndef count(): pass\n",
    "tool/bad.py": "eval(input())\n",
    "native/fastCount2.c": "/* Counts words in C.\n * Quickly. */\nint x;\n",
}
_REPOSITORY = {path: CodeText(text, language_of(path) or "") for path, text in _TEXTS.items()}


def test_prompts_say_what_repository_and_files_are() -> None:
    assert repository_prompt("o/tool", _REPOSITORY) == (
        "The repository o/tool holds 5 files of code (python, c). A small tool that counts words."
    )
    prompts = {path: file_prompt(path, form, []) for path, form in _REPOSITORY.items()}
    assert prompts["tool/cli.py"] == "The file cli.py in tool: Command line of the tool."
    assert prompts["tool/core.py"] == "The file core.py in tool is about core."  # a licence says nothing about the code
    assert prompts["native/fastCount2.c"] == "The file fastCount2.c in native: Counts words in C."
    assert file_prompt("x.c", CodeText("", "c"), ["b.h"]) == "The file x.c is about x. It builds on b.h."
    assert file_prompt("x.c", CodeText("", "c"), list("abcdefg")).endswith("It builds on a, b, c, d, e and 2 more.")


@given(
    st.sampled_from(["python", "c", "markdown", "ruby"]), st.text(max_size=400) | st.just("/* " + "word " * 200 + "*/")
)
def test_a_summary_is_short_whatever_the_file(language: str, text: str) -> None:
    summary = summarize(CodeText(text, language))
    assert len(summary) <= MAX_SUMMARY + 4
    assert "\n" not in summary


def test_a_comment_full_of_white_space_is_summarized_at_once() -> None:
    started = time.process_time()
    assert summarize(CodeText(f"// Adds. {' ' * 40_000} // y\n", "c")) == "Adds."
    assert time.process_time() - started < 2  # quadratic: 11 s


def test_prompted_documents_are_depth_first_and_within_the_limit() -> None:
    graph = {"tool/cli.py": {"tool/core.py"}}

    def made(limit: int) -> list[JoinedFiles]:
        return list(prompted_documents("o/tool", _REPOSITORY, graph, _words, limit))

    (whole,) = made(1000)
    paths = [span.path for span in whole.spans]
    assert sorted(paths) == sorted(_REPOSITORY)
    assert paths.index("tool/core.py") == paths.index("tool/cli.py") - 1
    for span in whole.spans:
        content = whole.text[span.start : span.end]
        assert content.startswith(f"The file {span.path.rsplit('/', 1)[-1]}")
        assert section(span.path, *_REPOSITORY[span.path]) in content
    opening = repository_prompt("o/tool", _REPOSITORY)
    parts = made(60)
    assert len(parts) > 1
    assert all(part.text.startswith(opening) and _words(part.text) <= 60 for part in parts)
    assert json.dumps(made(60)) == json.dumps(parts)
