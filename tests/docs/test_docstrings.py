"""The API pages are made of docstrings: what is public has one, and it says more than its name."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = [path for folder in ("ilm_ray", "actors") for path in sorted((ROOT / folder).rglob("*.py"))]
FILLERS = {
    "a",
    "an",
    "the",
    "of",
    "and",
    "or",
    "to",
    "in",
    "for",
    "is",
    "it",
    "its",
    "as",
    "by",
    "with",
    "on",
    "that",
    "this",
}


def words(text: str) -> set[str]:
    return {word.rstrip("s") for word in re.findall("[a-z]+", text.lower()) if word not in FILLERS}


def repeats(name: str, docstring: str) -> bool:
    """Whether a docstring has no word that the name has not."""
    return words(docstring) <= words(re.sub("([A-Z])", r" \1", name).replace("_", " ")) | words(name)


def silent(source: str, name: str) -> Iterator[str]:
    """The module, and its public classes and functions, of which nothing is said."""
    tree = ast.parse(source)
    public = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in tree.body if isinstance(node, public) and not node.name.startswith("_")]
    for node, called in [(tree, name), *((node, node.name) for node in nodes)]:
        docstring = ast.get_docstring(node)
        if not docstring or repeats(called, docstring):
            yield called


def test_what_is_public_is_explained() -> None:
    sources = {path: source for path in MODULES if (source := path.read_text(encoding="utf-8"))}
    assert len(sources) > 250
    names_by_file = {str(path.relative_to(ROOT)): list(silent(source, path.stem)) for path, source in sources.items()}
    assert {path: names for path, names in names_by_file.items() if names} == {}


def test_the_check_sees() -> None:
    rows = ['"""Reading."""', "def f(): ...", "def read_rows():", '    """Read the rows."""', "class _P: ..."]
    source = "\n".join([*rows, "class T:", '    """A b."""'])
    assert list(silent(source, "reading")) == ["reading", "f", "read_rows"]


def test_a_docstring_begins_with_its_subject() -> None:
    """Of functions, classes and modules: no question, no relative clause."""
    opening = re.compile(r"(What|Of|Who|Whose|Where|When|Why|How|Does|Do|Is|Are|Has)\b")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    seen = []
    for path in [*MODULES, *sorted((ROOT / "jobs").rglob("*.py")), *sorted((ROOT / "cluster").rglob("*.py"))]:
        nodes = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, documented))
        seen += [(path.name, first) for node in nodes if (first := (ast.get_docstring(node) or "").partition("\n")[0])]
    assert len(seen) > 2000
    assert [pair for pair in seen if opening.match(pair[1])] == []
