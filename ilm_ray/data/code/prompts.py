"""Repositories for fine-tuning: files depth first, each behind a short prompt that describes it (section 4.4)."""

import ast
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping

from ilm_ray.data.code.documents import CountTokens, JoinedFiles, join_sections
from ilm_ray.data.code.files.detect import PROSE
from ilm_ray.data.code.files.forms import CodeText, section
from ilm_ray.data.code.order import Graph, depth_first_order

MAX_SUMMARY = 200  # characters of a summary

_COMMENT_START = re.compile(
    r"\A(?:#!.*\n)?\s*((?:(?://|#(?!\s*include|\s*if|\s*define|\s*pragma)).*\n?)+|/\*[\s\S]*?\*/)"
)
_COMMENT_SIGNS = re.compile(r"^[ \t]*(?:/\*+!?|\*+/|\*|//[/!]?|#+)?[ \t]*|[ \t]*\*+/[ \t]*$", re.MULTILINE)
_LEGAL = re.compile(r"copyright|licen[cs]e|\(c\)|spdx|all rights reserved|-\*-|eslint|@flow|generated", re.IGNORECASE)
_NO_PROSE = re.compile(r"^[ \t]*(?:[#=~*^_`|!<>\[-]|\.\. |$)")


def prompted_documents(
    name: str,
    files: Mapping[str, CodeText],
    graph: Graph,
    count: CountTokens,
    max_tokens: int = 32_000,
) -> Iterator[JoinedFiles]:
    """The files of a repository (path -> form) as documents of at most `max_tokens`.

    Every document opens with a description of the repository, every file with its own and with its imports; both are
    templates filled from README, docstrings, opening comments and names, the same for the same files.
    """
    opening = repository_prompt(name, files)

    def sections() -> Iterator[tuple[str, str]]:
        for path in depth_first_order(files, graph):
            needs = sorted(graph.get(path, frozenset()) & files.keys())
            yield path, f"{file_prompt(path, files[path], needs)}\n\n{section(path, *files[path])}"

    for document in join_sections(sections(), count, max_tokens - count(opening)):
        shift = len(opening) + 2
        spans = [span._replace(start=span.start + shift, end=span.end + shift) for span in document.spans]
        yield JoinedFiles(f"{opening}\n\n{document.text}", spans)


def repository_prompt(name: str, files: Mapping[str, CodeText]) -> str:
    """Describes a repository: name, languages, size, and the first prose of the README nearest to its root."""
    languages = Counter(form.language for form in files.values() if form.language not in PROSE)
    named = ", ".join(sorted(languages, key=lambda language: (-languages[language], language)))
    readmes = [path for path in files if posixpath.basename(path).lower().startswith("readme")]
    readme = min(readmes, key=lambda path: (path.count("/"), path), default=None)
    about = _first_prose(files[readme].text) if readme else ""
    count = languages.total()
    size = f"{count} {'file' if count == 1 else 'files'}"
    return " ".join(filter(None, (f"The repository {name} holds {size} of code ({named}).", about)))


def file_prompt(path: str, form: CodeText, needs: list[str]) -> str:
    """Describes a file: its path, its summary, and up to five files that it imports."""
    folder, name = posixpath.split(path)
    place = f"The file {name}" + (f" in {folder}" if folder else "")
    summary = summarize(form)
    words = " ".join(re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", posixpath.splitext(name)[0])).lower()
    about = f"{place}: {summary}" if summary else f"{place} is about {words or name}."
    more = f" and {len(needs) - 5} more" if len(needs) > 5 else ""
    return about + (f" It builds on {', '.join(needs[:5])}{more}." if needs else "")


def summarize(form: CodeText) -> str:
    """The first sentence of a docstring, an opening comment that is no licence, or the prose of a document; or ""."""
    if form.language == "python":
        try:
            docstring = ast.get_docstring(ast.parse(form.text))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            docstring = None
        return _first_sentence(docstring or "")
    if form.language in PROSE:
        return _first_prose(form.text)
    opening = _COMMENT_START.match(form.text)
    if opening is None or _LEGAL.search(opening[1]):
        return ""
    # A summary comes from the beginning, and the pattern takes quadratic time over long white space.
    return _first_sentence(_COMMENT_SIGNS.sub("", opening[1][: 10 * MAX_SUMMARY]))


def _first_prose(text: str) -> str:
    """The first paragraph that is no heading, list, table, badge or directive, cut to a sentence."""
    for paragraph in re.split(r"\n[ \t]*\n", text):
        lines = [line for line in paragraph.splitlines() if not _NO_PROSE.match(line)]
        if sentence := _first_sentence("\n".join(lines)) if len(" ".join(lines).split()) >= 4 else "":
            return sentence
    return ""


def _first_sentence(text: str) -> str:
    paragraph = " ".join(re.split(r"\n[ \t]*\n", text.strip(), maxsplit=1)[0].split())
    sentence = re.split(r"(?<=[.!?])\s|(?<=[。！？])", paragraph, maxsplit=1)[0]
    return sentence if len(sentence) <= MAX_SUMMARY else f"{sentence[:MAX_SUMMARY].rsplit(' ', 1)[0]} ..."
