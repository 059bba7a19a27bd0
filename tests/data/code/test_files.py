"""Near-dedup of code on planted copies, and the whole stage on repositories of every kind."""

import io
import json
import keyword
import re
import sysconfig
import tarfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import JsonObject, read_jsonl
from ilm_ray.config import load_config
from ilm_ray.config.data import CodeConfig
from ilm_ray.data.code.files.steps import sign_files
from ilm_ray.data.code.pipeline import build_code_data
from ilm_ray.data.dedup.components import clusters, keepers, stars
from ilm_ray.run.journal import Journal
from ilm_ray.run.stage import Context

_IRREGULAR = r"^(?:    )* {1,3}\S|\t"  # a line that is not indented by whole levels of four spaces


def _library(files: int) -> list[str]:
    texts = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if 2000 < len(text) < 60_000:
            texts.append(text)
    return texts[:files]


def _indented(text: str, unit: str) -> str:
    def widened(line: str) -> str:
        lead = len(line) - len(line.lstrip(" "))
        return unit * (lead // 4) + " " * (lead % 4) + line[lead:]

    return "\n".join(map(widened, text.split("\n")))


def _renamed(text: str) -> str:
    """One variable of the file has another name: one that is assigned, and used at least three times."""
    for name in dict.fromkeys(re.findall(r"^\s+([a-z_]\w{2,}) = ", text, re.M)):
        if not keyword.iskeyword(name) and len(re.findall(rf"\b{name}\b", text)) >= 3:
            return re.sub(rf"\b{name}\b", f"{name}_renamed", text)
    return text + "\n# end\n"


def _fallen(texts: list[str], threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(fallen ids, what each gives way to, fell as exact): the stage's shuffles in one process."""
    sketch = sign_files(texts, threshold)
    bands = sketch.bands.shape[1]
    ids = np.arange(len(texts), dtype=np.uint64)
    keys = np.concatenate([sketch.exact, sketch.bands.ravel()])
    owners = np.concatenate([ids, np.repeat(ids, bands)])
    _, edges = stars(keys, owners, np.arange(len(keys)) < len(ids))
    cluster = clusters(edges)
    keeper, _ = keepers(cluster.label, cluster.ids, sketch.signatures[cluster.ids.astype(int)], threshold)
    fallen = keeper != cluster.ids
    return cluster.ids[fallen], keeper[fallen], cluster.exact[fallen]


def test_of_files_of_ten_words_only_exact_copies_fall() -> None:
    """In so few words one other makes another file: a constant, a re-export, a route."""
    files = [
        f"from .{name} import {name.title()}\n\n__all__ = ['{name.title()}']\nROUTE = '/{name}'\n" for name in "ab"
    ]
    files += [f"export const limit = {n};\nexport default function get() {{ return limit; }}\n" for n in (3, 4)]
    ids, keeper, exact = _fallen([*files, files[0].replace("\n", "  \n")], CodeConfig().threshold)
    assert (ids.tolist(), keeper.tolist(), exact.tolist()) == ([4], [0], [True])


@pytest.mark.long
def test_near_dedup_on_planted_copies() -> None:
    originals = _library(100)
    count = len(originals)
    assert count == 100
    copies = [[_indented(text, unit) for text in originals] for unit in ("  ", "\t")]
    renamed = [_renamed(text) for text in originals]
    texts = originals + copies[0] + copies[1] + renamed
    ids, keeper, exact = _fallen(texts, CodeConfig().threshold)
    right = {i for i, kept in zip(ids.tolist(), keeper.tolist(), strict=True) if i >= count and i % count == kept}
    precision, recall = len(right) / len(ids), len(right) / (3 * count)
    print("precision", precision, "recall", recall)
    assert precision >= 0.99 and recall >= 0.99
    # Where every line is indented by whole levels, re-indenting leaves the very same tokens; elsewhere it cannot.
    regular = [i for i, text in enumerate(originals) if not re.search(_IRREGULAR, text, re.M)]
    as_exact = {i for i, equal in zip(ids.tolist(), exact.tolist(), strict=True) if equal}
    print("regularly indented", len(regular), "of", count, "fell as exact", len(as_exact))
    assert len(regular) >= 10 and {i + count * n for i in regular for n in (1, 2)} <= as_exact


def _sources(root: Path) -> Path:
    """A folder with a folder, an archive and a file that no rule may lose silently."""
    library = [text for text in _library(100) if not re.search(_IRREGULAR, text, re.M)]
    tree = root / "all/one"
    (tree / "vendor").mkdir(parents=True)
    (tree / "LICENSE").write_text("All rights reserved.\n")
    (tree / "main.py").write_text("import helper  # ask jane@company.org\n" + library[0])
    (tree / "helper.py").write_text(library[1])
    (tree / "copy.py").write_text(_indented(library[1], "\t"))
    (tree / "near.py").write_text(_renamed(library[1]))
    (tree / "vendor/x.py").write_text(library[2])
    (tree / "bad.py").write_bytes(b"\xff\xfe")
    (tree / "README.rst").write_text("One\n===\n\nThis is the documentation of one, and it has a few words to say.\n")
    # An __init__.py too short to stay, and a manifest: without them nobody knows where the imports lead.
    for name in ("tool", "cmd", "zlib"):
        (tree / name).mkdir()
    (tree / "tool/__init__.py").write_text("from .zcore import run\n")
    (tree / "tool/zcore.py").write_text(library[4] + "\ndef run():\n    pass\n")
    (tree / "tool/app.py").write_text("from tool import run\n" + library[5] + "\nrun()\n")
    (tree / "go.mod").write_text("module example.org/m\n")
    (tree / "cmd/main.go").write_text(
        'package main\n\nimport "example.org/m/zlib"\n\nfunc main() { zlib.Run(1, 2, 3) }\n'
    )
    (tree / "zlib/z.go").write_text("package zlib\nfunc Run(a, b, c int) int { return a + b + c }\n")
    (tree / "lib.lua").write_text("local x = 1\n")  # too short, and the only file of its language
    with tarfile.open(root / "all/two-1.0.tar.gz", "w:gz") as archive:
        page = b"<html><body><h1>Two</h1><p>How to use it, with some more words, in this broken page<b>."
        for name, content in (("two/a.py", library[3].encode()), ("two/doc.html", page)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return root / "all"


def test_the_stage_keeps_or_explains_every_file(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counter[tuple[str, str]]()

    def inc(value: int, tags: dict[str, Any]) -> None:
        counted[tags["stage"], tags["outcome"]] += value

    monkeypatch.setattr("ilm_ray.data.code.files.pipeline.counter", lambda row: SimpleNamespace(inc=inc))
    # Both trees are folders of the list: a folder of repositories needs a repository or an archive in it.
    source = _sources(tmp_path)
    config = load_config("nano", None, [f"code.source={source}", "code.max_document_tokens=1000000"])
    context = Context(config, tmp_path / "code", tmp_path, Journal(tmp_path / "journal.jsonl"))
    result = build_code_data(context)
    rows = [row for path in sorted((tmp_path / "code/files").glob("quality/kept-*")) for row in read_jsonl(path)]
    removed = [row for path in sorted((tmp_path / "code/files").glob("*/removed-*")) for row in read_jsonl(path)]
    kept = {row["url"]: row for row in rows}
    assert {row["url"]: row["drop_rule"] for row in removed} == {
        "one/LICENSE": "licence_text",
        "one/bad.py": "not_utf8",
        # Of copies the first stays.
        "one/helper.py": "exact_duplicate",
        "one/near.py": "near_duplicate",
        "one/go.mod": "manifest",
        "one/tool/__init__.py": "low_code_tokens",
        "one/vendor/x.py": "vendored",
    }
    assert set(kept) == {
        *(f"one/{name}" for name in ("main.py", "copy.py", "README.rst", "lib.lua")),
        *(f"one/{name}" for name in ("tool/zcore.py", "tool/app.py", "cmd/main.go", "zlib/z.go")),
        "two-1.0/a.py",
        "two-1.0/doc.html",
    }
    for row in rows:
        assert row["tier"] in ("high", "moderate") and row["weight"] == {"high": 3.0, "moderate": 1.0}[row["tier"]]
    assert kept["one/lib.lua"]["low_resource"] and kept["one/lib.lua"]["licence"] == "unknown"
    assert kept["one/main.py"]["masked_emails"] == 1 and "jane" not in kept["one/main.py"]["text"]
    assert kept["two-1.0/doc.html"]["language"] == "markdown"
    assert kept["two-1.0/doc.html"]["source_language"] == "html"
    documents: list[JsonObject] = [
        row for path in sorted((tmp_path / "code").glob("kept-*")) for row in read_jsonl(path)
    ]
    assert sorted(f["path"] for row in documents for f in row["files"]) == sorted(row["path"] for row in rows)
    for row in documents:
        for file in row["files"]:
            assert row["text"][file["start"] : file["end"]].startswith(f"## {file['path']}\n\n")
    order = json.loads((tmp_path / "code/order.json").read_text())
    assert order["one"]["edges"] == 3  # a folder with code of its own is one repository
    places = {path: place for place, path in enumerate(order["one"]["files"])}
    assert places["tool/zcore.py"] < places["tool/app.py"] and places["zlib/z.go"] < places["cmd/main.go"]
    assert all(1.0 <= row["weight"] <= 3.0 for row in documents)
    (two,) = [row for row in documents if row["url"].startswith("two-1.0")]
    assert "## doc.html\n\n# Two\n" in two["text"] and "## a.py\n\n```python\n" in two["text"]
    summary = result.metrics["summary"]
    assert summary["files_kept"] == len(rows)
    assert counted == {
        ("code/read", "kept"): summary["files_in"] - summary["removed_by_read"],
        ("code/read", "removed"): summary["removed_by_read"],
        ("code/quality", "kept"): len(rows),
        ("code/quality", "removed"): summary["removed_by_quality"],
    }
    tiers = Counter(row["tier"] for row in rows + removed if "tier" in row)
    assert {tier: counts["files"] for tier, counts in result.metrics["tiers"].items()} == {
        tier: tiers[tier] for tier in ("high", "moderate", "low")
    }
    # A second time, everything is found again; the bytes are the same.
    before = {path: path.read_bytes() for path in (tmp_path / "code").rglob("*.zst")}
    for path in (tmp_path / "code").glob("kept-*"):
        path.unlink()
    build_code_data(context)
    assert {path: path.read_bytes() for path in (tmp_path / "code").rglob("*.zst")} == before


def test_sources_without_any_text_are_the_users_error(local_ray: None, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/blank.py").write_text("\n \n")
    (tmp_path / "in/bad.py").write_bytes(b"\xff\xfe")
    config = load_config("nano", None, [f"code.source={tmp_path / 'in'}"])
    context = Context(config, tmp_path / "code", tmp_path, Journal(tmp_path / "journal.jsonl"))
    with pytest.raises(UserError, match="no file is left"):
        build_code_data(context)
