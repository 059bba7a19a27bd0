"""What browsers show is there after extraction: code, formulas, layout tables, answers, bare sections."""

import pytest

from ilm_ray.data.web.clean.normalise import drop_chrome, normalise
from ilm_ray.data.web.format.maintext import main_text
from tests.data.web.test_rules import EN, ZH

PARAGRAPHS = [f"<p>{line} {EN.split(chr(10))[number - 1]}</p>" for number, line in enumerate(EN.split("\n"))]
WALK = "def walk(tree):\n    for leaf in tree:\n        if leaf:\n\n            yield leaf"


def extracted(body: str) -> str:
    html = f'<!DOCTYPE html><html><head><meta charset="utf-8"><title>Notes</title></head><body>{body}</body></html>'
    return main_text(html) or ""


def article(inside: str) -> str:
    return extracted(f"<article>{''.join(PARAGRAPHS[:3])}{inside}{''.join(PARAGRAPHS[3:])}</article>")


@pytest.mark.parametrize(
    "markup",
    [
        f"<pre><code>{WALK}</code></pre>",
        f"<pre>{WALK}</pre>",
        "<pre><code>" + WALK.replace("def", '<span class="k">def</span>') + "\n</code></pre>",
        "<pre>" + WALK.replace("\n", "<br>") + "</pre>",
        "<code>" + WALK.replace("\n", "<br>").replace(" ", "&nbsp;") + "</code>",
        "<pre><ol>" + "".join(f"<li>{line or ' '}</li>" for line in WALK.split("\n")) + "</ol></pre>",
        '<figure class="highlight"><table><tr><td class="gutter"><pre>1\n2\n3\n4\n5</pre></td>'
        f'<td class="code"><pre>{WALK}</pre></td></tr></table></figure>',
        f'<div class="highlight"><pre><span class="linenos">1</span>{WALK}</pre></div>',
    ],
)
def test_code_keeps_its_lines_and_indentation_through_clean(markup: str) -> None:
    text = drop_chrome(normalise(article(markup)))[0]
    assert WALK in text
    assert EN.split("\n")[0] in text and EN.split("\n")[-1] in text
    assert not any(line.startswith(" ") for line in text.replace(WALK, "").split("\n"))


def test_tabs_of_a_makefile_stay_and_marks_of_our_own_are_nobodys() -> None:
    rule = "all: build\n\tcc -o a a.c\n\t./a"
    assert rule in normalise(article(f"<pre>{rule}</pre>"))
    assert "a ␢ and ␊" in article(f"<p>a ␢ and ␊ of a font</p><pre>{rule}</pre>")


@pytest.mark.parametrize("wrap", ["{}", "<font size=2>{}</font>", "<center><font>{}</font></center>"])
def test_an_article_in_a_layout_table_keeps_its_lines(wrap: str) -> None:
    lines = EN.split("\n")
    cell = "<h1>The mill</h1>" + wrap.format("<br><br>".join(lines))
    menu = "<a href='a'>Menu one</a><br><a href='b'>Menu two</a>"
    text = extracted(f"<table width=760><tr><td width=140>{menu}</td><td>{cell}</td></tr></table>")
    assert set(lines) <= set(text.split("\n")) and "Menu two" not in text


def test_a_table_of_data_stays_one_with_the_lists_in_its_cells() -> None:
    rows = "".join(
        f"<tr><td>{day}</td><td><ul><li>{at}:00 to 20:00</li><li>by bus</li></ul></td></tr>"
        for day, at in (("Monday", 10), ("Tuesday", 11), ("Friday", 12))
    )
    text = article(f"<table>{rows}</table>")
    assert "| Monday | 10:00 to 20:00; by bus |" in text and "| Friday |" in text


@pytest.mark.parametrize("post", ['<div class="post-text">{}</div>', '<div class="s-prose">{}</div>', "{}"])
def test_a_question_page_has_its_answers(post: str) -> None:
    answers = ["<p>Because the wood swells in the wet season.</p>", "<p>Oil it once a month, says the smith.</p>"]
    listed = "".join(f'<div class="answer">{post.format(answer + PARAGRAPHS[0])}</div>' for answer in answers)
    question = f"<h1>Why does the latch stick?</h1><div class='post-text'>{PARAGRAPHS[1]}</div>"
    text = extracted(f'<div id="question">{question}</div><div id="answers">{listed}</div>')
    assert text.startswith("Why does the latch stick?") and EN.split("\n")[1] in text
    assert "wood swells" in text and "Oil it" in text


def test_a_text_in_bare_sections_is_found_though_the_pages_chrome_stands_in_paragraphs() -> None:
    chrome = ["微信号 MillStories", "功能介绍：讲述磨坊的故事，也讲述村里的生活", "已发送", "微信扫一扫关注该公众号"]
    body = "".join(f"<section><span>{line}</span></section>" for line in ZH.split("\n"))
    text = extracted(
        f"<div><p>{chrome[0]}</p><p>{chrome[1]}</p></div><div>{body}</div><p>{chrome[2]}</p><p>{chrome[3]}</p>"
    )
    assert set(ZH.split("\n")) <= set(text.split("\n"))


@pytest.mark.parametrize(
    "markup",
    [
        '<script type="math/tex">E = m c^2</script>',
        '<span class="MathJax_Preview">E=mc2</span><span class="MathJax">E m c 2</span>'
        '<script type="math/tex; mode=display">E = m c^2</script>',
        '<img class="latex" alt="E = m c^2" src="x.png">',
        '<img src="x.png" data-tex="E = m c^2">',
        '<math><semantics><mi>E</mi><annotation encoding="application/x-tex">E = m c^2</annotation></semantics></math>',
        '<math alttext="E = m c^2"><mi>E</mi></math>',
    ],
)
def test_formulas_are_there_once(markup: str) -> None:
    text = article(f"<p>The energy is {markup} at rest, as everyone knows.</p>")
    assert text.count("E = m c^2") == 1 and "E m c 2" not in text and "E=mc2" not in text


def test_text_behind_an_early_end_of_the_page_is_there() -> None:
    page = f"<html><body><article>{''.join(PARAGRAPHS)}</article></body></html>"
    text = main_text(f"<html><body><div>A banner.</div></body></html>\n<!DOCTYPE html>{page}") or ""
    assert EN.split("\n")[-1] in text


def test_hot_lists_and_footers_behind_a_chinese_text_go() -> None:
    paragraphs = "".join(f"<p>{line}{ZH.split(chr(10))[number - 1]}</p>" for number, line in enumerate(ZH.split("\n")))
    titles = [f"热点：第{number}届运动会今日开幕 市民热情参与" for number in "一二三四五六七八"]
    hot = "<div><h3>热门推荐</h3><ul>" + "".join(f"<li>{title}</li>" for title in titles) + "</ul></div>"
    foot = "<div><p>版权所有 某某日报社 备案号 12345</p><p>新闻热线 010-1234567</p></div>"
    text = extracted(f"<div><h1>磨坊</h1><div>{paragraphs}</div></div>{hot}{foot}")
    assert all(line in text for line in ZH.split("\n")) and "运动会" not in text and "新闻热线" not in text


def test_prose_behind_what_the_second_opinion_found_stays() -> None:
    first, second = (
        f"<div>{''.join(f'<p>{line}第{part}章。</p>' for line in ZH.split(chr(10)))}</div>" for part in "一二"
    )
    text = extracted(f"<div>{first}<div><span></span>{second}</div></div>")
    assert text.count("第一章。") == 5 and text.count("第二章。") == 5
