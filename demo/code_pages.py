"""Tutorial articles about small Python functions, with `<pre><code>` blocks."""

import html
import random

from demo.code_items import CODE_ITEMS, CodeItem
from demo.sentences import Article, Deck

_ABOUT = (
    "The function {name} {task}, and it needs only one line of code.",
    "In words, {prose}, and the function gives the result back.",
    "We want a function that {task}, so we choose the short name {name} for it.",
    "Writing {name} is a good exercise, because {prose} and nothing more.",
    "To see how a function {task}, read the next block line by line.",
    "The idea behind {name} is simple: {prose}.",
)
_ADVICE = (
    "The docstring tells the reader what comes back, and it should fit on one line.",
    "Test the function with small values first, and only then with large ones.",
    "A good name says what a function does, so that no comment is needed.",
    "You can import the function from another file once it has been saved.",
    "If the input has the wrong type, Python raises an error that names the line.",
    "Keep every function short, because a short function is easy to check.",
    "The return statement ends the function and hands the value to the caller.",
    "Indent the body with four spaces, since Python reads the structure from them.",
    "It is wise to write a test at the same time as the function itself.",
    "Try to change one thing at a time and run the program again after each change.",
    "The arguments stand between the brackets and are parted by a comma.",
    "A function without a return statement gives back the value None.",
    "Read the error message from the last line upward, and the cause is soon found.",
    "When two functions look the same, one of them can often be removed.",
    "Variables inside the function are not seen by the code that calls it.",
    "Save the file, open a terminal and run the example with the interpreter.",
    "An empty list is a good test case, and so is a list with a single item.",
    "It is a matter of taste, but most teams agree on one style and keep to it.",
)


def code_article(rng: random.Random) -> tuple[Article, str]:
    """A tutorial and its HTML blocks: prose and code in turn, three to five functions."""
    items = rng.sample(CODE_ITEMS, rng.randint(3, 5))
    about, advice = Deck(rng, _ABOUT), Deck(rng, _ADVICE)
    names = " and ".join(item.name for item in items[:2])
    title = rng.choice(
        (
            "Small Python functions: {0}",
            "Python step by step: {0}",
            "How to write {0} in Python",
            "A Python lesson about {0}",
        )
    ).format(names)
    paragraphs: list[str] = []
    blocks: list[str] = []

    def say(text: str) -> None:
        paragraphs.append(text)
        blocks.append(f"<p>{html.escape(text, quote=False)}</p>")

    say(
        f"In this lesson we write {len(items)} small functions, with {items[0].name} as the first one. "
        f"{advice.draw()} {advice.draw()}"
    )
    for number, item in enumerate(items, start=1):
        blocks.append(f"<h2>Step {number}: {item.name}</h2>")
        say(" ".join((_about(about, item), advice.draw(), advice.draw())))
        paragraphs.append(item.source)
        blocks.append(f'<pre><code class="language-python">{html.escape(item.source, quote=False)}</code></pre>')
        say(" ".join((_about(about, item), advice.draw())))
    say(f"That is all for today. {advice.draw()} In the next lesson we put {items[-1].name} into a larger program.")
    return Article(title, tuple(paragraphs), "en", "code"), "\n".join(blocks)


def _about(deck: Deck, item: CodeItem) -> str:
    return deck.draw().format(name=item.name, task=item.task, prose=item.prose)
