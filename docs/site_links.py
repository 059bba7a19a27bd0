"""A hook of `make docs`: the name of a page in a page, `docs/how_to.md`, becomes a link to it."""

import re
from pathlib import Path
from typing import Any

PAGES = {path.name for path in Path(__file__).parent.glob("*.md")}
_NAME = re.compile(r"(?<!\[)`docs/([\w.-]+\.md)`(?!\])")


def on_page_markdown(markdown: str, **about: Any) -> str:
    """The page's text with links."""
    return _NAME.sub(lambda m: f"[{m[1]}]({m[1]})" if m[1] in PAGES else m[0], markdown)
