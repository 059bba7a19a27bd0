"""A source tree -> dependency-sorted documents on Ray Data."""

import json
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.data

from ilm_ray.code.imports import DOCUMENTATION, LANGUAGES
from ilm_ray.code.repository import dependency_order, import_edges, markdown_documents
from ilm_ray.config import Config
from ilm_ray.corpus.jsonl import write_jsonl
from ilm_ray.corpus.manifest import digest
from ilm_ray.corpus.stage import Context, Result
from ilm_ray.errors import UserError

# Folders that hold no source of the repository itself.
_SKIPPED = {"site-packages", "__pycache__", "test", "tests", "idlelib", "lib2to3", "node_modules", "vendor", ".git"}


def source_folder(config: Config) -> Path:
    """The tree to read: the setting, or the running Python's standard library."""
    return Path(config.code.source or sysconfig.get_path("stdlib"))


def source_fingerprint(config: Config) -> dict[str, str]:
    """Identity of the chosen files. Raises UserError where the tree is missing or empty."""
    folder = source_folder(config)
    if not folder.is_dir():
        raise UserError(f"code.source: {folder} is no folder; give a source tree")
    files = choose_files(folder, config.code.max_files, config.code.max_file_bytes)
    if not files:
        raise UserError(f"code.source: {folder} holds no source file in a known language ({', '.join(LANGUAGES)})")
    return {"source": digest([[name, (folder / name).stat().st_size] for name in files])}


def choose_files(folder: Path, max_files: int, max_bytes: int) -> list[str]:
    """Paths relative to `folder`, POSIX, sorted: code and documentation of a usable size, the shallowest first."""
    found = [
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.suffix in LANGUAGES or path.suffix in DOCUMENTATION
    ]
    usable = [
        p
        for p in found
        if not _SKIPPED & set(p.parts) and (folder / p).is_file() and 0 < (folder / p).stat().st_size <= max_bytes
    ]
    shallow = sorted(usable, key=lambda p: (len(p.parts), p.as_posix()))[:max_files]
    return sorted(p.as_posix() for p in shallow)


def build_code_documents(context: Context) -> Result:
    """Read, sort by imports, write `kept-00000.jsonl.zst` and `order.json`."""
    config, folder = context.config.code, source_folder(context.config)
    names = choose_files(folder, config.max_files, config.max_file_bytes)
    read = ray.data.from_items([{"path": name, "root": str(folder)} for name in names]).map(_read_file)
    texts = {row["path"]: row["text"] for row in read.iter_rows() if row["text"].strip()}
    edges = import_edges(texts)
    order = dependency_order(edges)
    documents = markdown_documents(order, texts, config.max_document_chars)
    rows = [
        {
            "id": number,
            "url": f"{folder.name}#{number}",
            "dump": "code",
            "language": "code",
            "text": document["text"],
            "files": document["files"],
        }
        for number, document in enumerate(documents)
    ]
    kept, order_file = context.folder / "kept-00000.jsonl.zst", context.folder / "order.json"
    write_jsonl(kept, rows)
    order_file.write_text(json.dumps(_order_report(folder.name, order, edges), indent=1), encoding="utf-8")
    summary = {
        "files": len(texts),
        "documents": len(rows),
        "imports": sum(map(len, edges.values())),
        "characters": sum(len(r["text"]) for r in rows),
    }
    return Result([kept, order_file], {"summary": summary})


def _order_report(name: str, order: list[str], edges: Mapping[str, set[str]]) -> dict[str, Any]:
    return {name: {"files": order, "edges": sum(map(len, edges.values()))}}


def _read_file(row: dict[str, Any]) -> dict[str, Any]:
    raw = (Path(row["root"]) / row["path"]).read_bytes()
    return {"path": row["path"], "text": raw.decode("utf-8", errors="replace").replace("\r\n", "\n")}
