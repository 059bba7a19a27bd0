"""The pages of text classifiers, each from its card."""

import json
from pathlib import Path

from ilm_ray.base.files import write_text_atomic
from ilm_ray.data.web.classifiers.card import read_card
from ilm_ray.report.charts.basic import Series, line_chart
from ilm_ray.report.html import page


def write_card_page(folder: Path) -> Path:
    """Write `card.html` beside a classifier's card and return its path. Raises UserError where there is no card."""
    card = read_card(folder)
    points = {
        key: [(row["threshold"], row[key]) for row in card["curve"]] for key in ("precision", "recall", "removed")
    }
    drawn = line_chart("What each threshold removes", [Series(k, v) for k, v in points.items()], "threshold", "share")
    rows = {part: {k: v for k, v in counts.items() if k != "languages"} for part, counts in card["rows"].items()}
    near = [(row["score"], "good" if row["good"] else "bad", row["text"]) for row in card.get("nearest", [])]
    parts = [
        page.paragraph(f"{card['kind']}; {card['meaning']}. Chosen threshold: {card['threshold']}."),
        page.matrix(card["held_out"], "held out"),
        page.figure("Precision, recall and share removed", drawn),
        page.matrix(rows, "part"),
        page.paragraph("Held-out texts whose scores lie next to the threshold; below it a text falls:"),
        page.table(["score", "label", "text"], near),
        page.table(["made from", ""], [(k, json.dumps(v, ensure_ascii=False)) for k, v in card["made_from"].items()]),
    ]
    title, target = f"Classifier {card['name']}", folder / "card.html"
    write_text_atomic(target, page.page(title, page.section("card", title, parts)))
    return target
