"""Turns articles into HTML pages with the boilerplate of real sites: menus, side bars, footers."""

import html
import random
from dataclasses import dataclass

from demo.sentences import Article

_WORDS = {
    "en": {
        "nav": ("Home", "Articles", "Archive", "About us", "Contact"),
        "related": "Related pages",
        "foot": "All rights reserved",
        "login": "Log in",
        "by": "Written by the editors on",
        "more": "Read more",
        "tags": "Tags",
        "share": "Share this page",
    },
    "zh": {
        "nav": ("首页", "文章", "归档", "关于我们", "联系方式"),
        "related": "相关文章",
        "foot": "版权所有",
        "login": "登录",
        "by": "编辑部发布于",
        "more": "阅读更多",
        "tags": "标签",
        "share": "分享本页",
    },
}


@dataclass(frozen=True)
class Look:
    """How one page is dressed: layout number, date shown and the titles in the side bar."""

    layout: int
    date: str
    site: str
    related: tuple[str, ...]
    meta_charset: str


def _menu(language: str) -> str:
    links = "".join(f'<li><a href="/{i}/">{word}</a></li>' for i, word in enumerate(_WORDS[language]["nav"]))
    return f'<nav class="menu"><ul>{links}</ul></nav>'


def _side(look: Look, language: str) -> str:
    words = _WORDS[language]
    links = "".join(f'<li><a href="/r/{i}.html">{html.escape(t)}</a></li>' for i, t in enumerate(look.related))
    return (
        f'<aside class="sidebar"><h3>{words["related"]}</h3><ul>{links}</ul>'
        f'<p><a href="/login">{words["login"]}</a> | <a href="/more">{words["more"]}</a></p></aside>'
    )


def _foot(look: Look, language: str) -> str:
    words = _WORDS[language]
    return (
        f'<footer id="footer"><p>&copy; {look.date[:4]} {look.site}. {words["foot"]}.</p>'
        f'<ul class="social"><li><a href="/share">{words["share"]}</a></li></ul></footer>'
    )


def body_blocks(article: Article, rng: random.Random, extras: tuple[str, ...] = ()) -> str:
    """The paragraphs as HTML, with a subheading here and there; `extras` are ready blocks put between paragraphs."""
    blocks = [f"<p>{html.escape(p, quote=False)}</p>" for p in article.paragraphs]
    for extra in extras:
        blocks.insert(rng.randint(1, max(1, len(blocks) - 1)), extra)
    return "\n".join(blocks)


def bullet_list(sentences: tuple[str, ...]) -> str:
    """A list whose items are sentences."""
    return "<ul>" + "".join(f"<li>{html.escape(s, quote=False)}</li>" for s in sentences) + "</ul>"


def table(rows: tuple[tuple[str, str], ...]) -> str:
    """A table of two columns."""
    cells = "".join(f"<tr><td>{html.escape(a)}</td><td>{html.escape(b)}</td></tr>" for a, b in rows)
    return f"<table>{cells}</table>"


def page(article: Article, blocks: str, look: Look) -> str:
    """A whole HTML document."""
    language = article.language
    title = html.escape(article.title, quote=False)
    words = _WORDS[language]
    charset = f'<meta charset="{look.meta_charset}">\n' if look.meta_charset else ""
    lang = "zh-CN" if language == "zh" else "en"
    head = (
        f'<!DOCTYPE html>\n<html lang="{lang}">\n<head>\n{charset}<title>{title} - {look.site}</title>\n'
        f'<meta name="description" content="{html.escape(article.title)}">\n'
        '<link rel="stylesheet" href="/style.css">\n<style>.menu li { display: inline; }</style>\n</head>\n'
    )
    by_line = f'<p class="byline"><time datetime="{look.date}">{words["by"]} {look.date}</time></p>'
    menu, side, foot = _menu(language), _side(look, language), _foot(look, language)
    if look.layout == 0:
        main = f"<main><article>\n<h1>{title}</h1>\n{by_line}\n{blocks}\n</article></main>"
        inner = f'<header class="top"><a href="/">{look.site}</a>{menu}</header>\n{main}\n{side}\n{foot}'
    elif look.layout == 1:
        main = f'<div id="content" class="post-content">\n<h1>{title}</h1>\n{by_line}\n{blocks}\n</div>'
        inner = f'{menu}\n<div class="wrapper">\n{side}\n{main}\n</div>\n{foot}'
    else:
        main = f'<div class="article-body">\n<h1 class="headline">{title}</h1>\n{blocks}\n{by_line}\n</div>'
        script = "<script>var visits = 0; visits += 1;</script>"
        inner = f'<div class="banner"><h2>{look.site}</h2></div>\n{menu}\n{main}\n{side}\n{script}\n{foot}'
    return f"{head}<body>\n{inner}\n</body>\n</html>\n"
