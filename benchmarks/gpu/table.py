"""The tables of README.md: `python -m benchmarks.gpu.table [gpu.json]` prints them, `--write` puts them in.

README's section lies between two comments. Without a gpu.json it says that nothing is measured yet.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- gpu.json -->", "<!-- end of gpu.json -->"
NOT_YET = "Not measured yet: nobody has run `make gpu` on a card."
# Section -> heading, and column -> key of a row.
COLUMNS: dict[str, tuple[str, dict[str, str]]] = {
    "rates": (
        "the card",
        {"TFLOP/s, bf16": "tflops", "GB/s": "gb_s", "pinned, GB/s": "pinned_gb_s", "pageable, GB/s": "pageable_gb_s"},
    ),
    "attention": (
        "attention",
        {
            "forward error": "forward_error",
            "gradient error": "gradient_error",
            "from SDPA": "gradient_from_sdpa",
            "repeats": "repeats",
            "forward, ms": "forward_ms",
            "both, ms": "forward_and_backward_ms",
            "TFLOP/s": "tflops",
        },
    ),
    "ppo": (
        "PPO on the device",
        {"advantages": "advantages", "log-probabilities": "logprob_difference", "gradient": "gradient_error"},
    ),
    "resume": (
        "a checkpoint",
        {
            "bit for bit": "bit_for_bit",
            "the device repeats itself": "repeats",
            "difference": "difference",
            "of a repeat": "difference_of_repeat",
        },
    ),
    "step": (
        "a training step",
        {
            "rows": "rows",
            "tokens/s": "tokens_s",
            "MFU, all keys": "mfu",
            "MFU, causal": "mfu_causal",
            "of matrix products": "of_matrix_product",
            "peak, GiB": "peak_gib",
            "predicted, GiB": "predicted_gib",
        },
    ),
    "road": ("the road", {"passed": "tests_passed", "failed tests": "tests_failed", "stages": "stages"}),
}


def tables(result: dict[str, Any]) -> str:
    """Markdown: the machine in a line, a table for each section that measured anything, the skipped cases by reason."""
    sections: dict[str, list[dict[str, Any]]] = result["sections"]
    parts = [_machine(result)]
    for name, (heading, columns) in COLUMNS.items():
        rows = [row for row in sections.get(name, []) if "skipped" not in row]
        if rows:
            parts.append(_table(heading, columns, rows))
    skipped = [(name, row) for name, rows in sections.items() for row in rows if "skipped" in row]
    if skipped:
        parts.append(_reasons(skipped))
    return "\n\n".join(parts)


def _machine(result: dict[str, Any]) -> str:
    row = next(iter(result["sections"].get("machine", [])), {})
    if result["tiny"]:
        return "Tiny shapes, to see that the logic runs: no figure here means anything."
    versions = ", ".join(f"{name} {version}" for name, version in (row.get("packages") or {}).items() if version)
    facts = [row.get("device", "unknown device"), f"driver {row.get('driver')}", f"CUDA {row.get('cuda')}", versions]
    return f"{'; '.join(facts)}; commit {row.get('commit')}, {str(row.get('date'))[:10]}."


def _table(heading: str, columns: dict[str, str], rows: Iterable[dict[str, Any]]) -> str:
    """Columns that no row has are left out; a bad row says so in its last column."""
    rows = list(rows)
    shown = {title: key for title, key in columns.items() if any(key in row for row in rows)}
    lines = [f"| {heading} | {' | '.join(shown)} | verdict |", f"|---|{'---|' * len(shown)}---|"]
    for row in rows:
        cells = [_cell(row.get(key)) for key in shown.values()]
        lines.append(f"| {' | '.join([row['case'], *cells, _verdict(row)])} |")
    return "\n".join(lines)


def _verdict(row: dict[str, Any]) -> str:
    if "failed" in row:
        return f"failed: {row['failed']}".replace("|", "/")
    words = {"holds": ("holds", "beyond its bound"), "memory_holds": ("memory as predicted", "memory not as predicted")}
    return "; ".join(words[name][not row[name]] for name in words if name in row)


def _cell(value: Any) -> str:
    kinds: tuple[tuple[type, Callable[[Any], str]], ...] = (
        (bool, lambda v: "yes" if v else "no"),
        (int, lambda v: f"{v:,}"),
        (float, lambda v: f"{v:,.0f}" if v >= 1000 else f"{v:g}"),
        (dict, lambda v: ", ".join(f"{stage} {row['seconds']:.0f} s" for stage, row in v.items())),
    )
    return next((shown(value) for kind, shown in kinds if isinstance(value, kind)), "")


def _reasons(skipped: Iterable[tuple[str, dict[str, Any]]]) -> str:
    by_reason: dict[tuple[str, str], list[str]] = {}
    for name, row in skipped:
        by_reason.setdefault((name, row["skipped"]), []).append(row["case"])
    groups = (f"{name}: {', '.join(cases)} ({reason})" for (name, reason), cases in by_reason.items())
    return f"Skipped: {'; '.join(groups)}."


def section(result: dict[str, Any] | None) -> str:
    """The text between README's two comments."""
    return NOT_YET if result is None else tables(result)


def replaced(readme: str, result: dict[str, Any] | None) -> str:
    """README with the section of `result`. Raises ValueError where the comments are absent, or the shapes were tiny."""
    if result is not None and result["tiny"]:
        raise ValueError("figures of tiny shapes mean nothing: run `make gpu` on a card")
    if BEGIN not in readme or END not in readme:
        raise ValueError(f"README.md lacks {BEGIN} or {END}")
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    return pattern.sub(lambda _: f"{BEGIN}\n{section(result)}\n{END}", readme)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=ROOT / "gpu.json")
    parser.add_argument("--write", action="store_true", help="replace README's section")
    arguments = parser.parse_args()
    result = json.loads(arguments.file.read_text(encoding="utf-8")) if arguments.file.exists() else None
    if not arguments.write:
        print(section(result))
        return
    readme = ROOT / "README.md"
    try:
        readme.write_text(replaced(readme.read_text(encoding="utf-8"), result), encoding="utf-8")
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
