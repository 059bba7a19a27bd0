"""The page on which people compare two answers: pure functions of its content. Answers are hostile text: escaped.

Works without script; with it keys answer too. The policy lets only the one script run that carries the nonce.
"""

from typing import Any

from ilm_ray.report.html.page import Html, join, text
from ilm_ray.report.html.style import STYLE

_CSS = """\
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 14px; margin: 14px 0; }
.sides .quoted { max-height: none; min-height: 5em; font-size: 15px; }
h2 { margin-top: 0; }
.choices { display: grid; grid-template-columns: 1fr 1fr 1fr; gap: 10px; position: sticky; bottom: 0; padding: 10px 0;
  background: var(--card); }
button { font: inherit; font-weight: 600; padding: 12px 8px; border-radius: 8px; border: 1px solid var(--line);
  background: var(--faint); color: var(--ink); cursor: pointer; }
button:hover, button:focus-visible { border-color: var(--k1); outline: 2px solid var(--k1); }
button.was { border-color: var(--k3); }
kbd { font: inherit; font-weight: 400; color: var(--muted); }
progress { appearance: none; width: 100%; height: 6px; border: 0; border-radius: 3px; background: var(--line); }
progress::-webkit-progress-bar { background: var(--line); border-radius: 3px; }
progress::-webkit-progress-value { background: var(--k3); border-radius: 3px; }
progress::-moz-progress-bar { background: var(--k3); border-radius: 3px; }
nav { display: flex; gap: 18px; margin-top: 10px; } a { color: var(--k1); }
@media (max-width: 640px) { main { padding: 14px 10px 30px; } section { padding: 14px; }
  .sides { grid-template-columns: 1fr; } kbd { display: none; } }
"""
# Keys answer as the buttons do; with a modifier they belong to the browser.
_SCRIPT = """\
document.addEventListener("keydown", function (event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  var key = {"1": "first", "ArrowLeft": "first", "2": "tie", "3": "second", "ArrowRight": "second",
    "Backspace": "back", "s": "skip"}[event.key];
  var target = key && document.getElementById(key);
  if (target) { event.preventDefault(); target.click(); }
});
"""


def policy(nonce: str) -> str:
    """Content-Security-Policy of the page: nothing from elsewhere, nobody may frame it."""
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )


def question_page(
    row: dict[str, Any],
    sides: tuple[str, str],
    earlier: str | None,
    progress: tuple[int, int],
    links: dict[str, str],
    token: str,
    nonce: str,
) -> str:
    """One comparison.

    sides: which of "a" and "b" comes first and second; earlier: the label so far (a, b, tie); progress:
    (labelled, all); links: addresses of `back` and `skip`, absent where there is none; token: proves that a form comes
    from this page.
    """
    talk = [
        Html(
            f'<div class="meta">{text(turn["role"])}</div><div class="quoted" dir="auto">{text(turn["content"])}</div>'
        )
        for turn in row["prompt"]
    ]
    answers = [
        Html(f'<div><div class="meta">{name} answer</div>{_answer(row[side])}</div>')
        for name, side in zip(("first", "second"), sides, strict=True)
    ]
    choices = [
        Html(
            f'<button id="{where}" name="label" value="{label}"{" class=was" if earlier == label else ""}>{words} '
            f"<kbd>{key}</kbd></button>"
        )
        for where, label, words, key in (
            ("first", sides[0], "First is better", "1 or ←"),
            ("tie", "tie", "As good", "2"),
            ("second", sides[1], "Second is better", "3 or →"),
        )
    ]
    ways = [Html(f'<a id="{way}" href="{text(to)}">{way.capitalize()}</a>') for way, to in links.items()]
    done, total = progress
    body = join(
        [
            Html(f'<progress max="{total}" value="{done}" aria-label="labelled"></progress>'),
            Html(f'<p class="note">{done} of {total} labelled · domain {text(row["domain"])}</p>'),
            Html(f"<section><h2>Which answer is better?</h2>{join(talk)}"),
            Html(f'<form method="post" action="/label"><div class="sides">{join(answers)}</div>'),
            Html(f'<input type="hidden" name="id" value="{text(row["id"])}">'),
            Html(f'<input type="hidden" name="token" value="{text(token)}">'),
            Html(f'<div class="choices">{join(choices)}</div></form><nav>{join(ways)}</nav></section>'),
        ]
    )
    return _document(body, nonce)


def done_page(total: int, path: str, back: str, nonce: str) -> str:
    """The page after the last label."""
    message = f"All {total} comparisons are labelled. They are in {path}; stop the program with Ctrl-C."
    way = f'<nav><a id="back" href="{text(back)}">Back</a></nav>'
    return _document(Html(f"<section><h2>Done</h2><p>{text(message)}</p>{way}</section>"), nonce)


def _answer(words: str) -> Html:
    return Html(f'<div class="quoted" dir="auto">{text(words)}</div>')


def _document(body: Html, nonce: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Label answers</title>\n<style>\n{STYLE}{_CSS}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f'<script nonce="{nonce}">{_SCRIPT}</script>\n</body>\n</html>\n'
    )
