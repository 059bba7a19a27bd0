"""The pages of the demo crawl: what each holds, where it lies and how it is encoded."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from demo import benchmark_items, lists
from demo.bad_text import bad_article, garbled_article, repeated_article, symbol_article
from demo.code_pages import code_article
from demo.markup import Look, body_blocks, bullet_list, page, table
from demo.sentences import Article, Writer, place_name, writer

OLD, NEW = "CC-MAIN-2024-10", "CC-MAIN-2024-33"
DUMPS = (OLD, NEW)
GOOD_KINDS = ("article_en", "article_zh", "code", "near_duplicate", "exact_duplicate")
_DATES = {OLD: ("2024-02-", "2024-03-"), NEW: ("2024-08-", "2024-08-")}


@dataclass(frozen=True)
class Page:
    """One HTML response; `group` is shared by copies of one page across the dumps."""

    url: str
    dump: str
    kind: str
    group: str
    content_type: str
    body: bytes


@dataclass(frozen=True)
class Encoding:
    """How the page is encoded and where it says so."""

    codec: str = "utf-8"
    header: str = "utf-8"
    meta: str = "utf-8"

    @property
    def content_type(self) -> str:
        """The value of the HTTP header."""
        return f"text/html; charset={self.header}" if self.header else "text/html"


GBK_HEADER = Encoding("gbk", "gbk", "")
GBK_META = Encoding("gbk", "", "gbk")
LATIN_HEADER = Encoding("latin-1", "ISO-8859-1", "")
LATIN_META = Encoding("latin-1", "", "iso-8859-1")


def _date(rng: random.Random, dump: str) -> str:
    return f"{rng.choice(_DATES[dump])}{rng.randint(10, 25)}"


def _look(rng: random.Random, dump: str, language: str, site: str, encoding: Encoding) -> Look:
    related = tuple(writer(rng, language).title() for _ in range(rng.randint(3, 5)))
    return Look(rng.randrange(3), _date(rng, dump), site, related, encoding.meta)


def _host(rng: random.Random, word: str) -> str:
    return f"www.{place_name(rng, 'en').lower()}-{word}.{rng.choice(('example', 'test', 'example'))}"


def _url(rng: random.Random, host: str, title: str) -> str:
    slug = "-".join(re.findall(r"[a-z]+", title.lower())[:5]) or "page"
    return f"https://{host}/{rng.choice(('notes', 'articles', 'p', '2024'))}/{slug}-{rng.randint(1000, 99999)}.html"


def _extras(w: Writer, rng: random.Random) -> tuple[str, ...]:
    """Sometimes a subheading, a list of sentences or a table."""
    blocks: list[str] = []
    if rng.random() < 0.6:
        blocks.append(f"<h2>{w.title()}</h2>")
    if rng.random() < 0.25:
        blocks.append(bullet_list(tuple(w.sentence() for _ in range(3))))
    if rng.random() < 0.15:
        blocks.append(table(tuple((place_name(rng, w.language), str(rng.randint(1800, 2019))) for _ in range(4))))
    return tuple(blocks)


@dataclass(frozen=True)
class Draft:
    """A page before it is dressed; near-duplicates are made from drafts."""

    article: Article
    blocks: str
    encoding: Encoding
    word: str = "notes"
    host: str = ""


def _finish(rng: random.Random, draft: Draft, dump: str, kind: str, group: str = "") -> Page:
    host = draft.host or _host(rng, draft.word)
    look = _look(rng, dump, draft.article.language, host, draft.encoding)
    body = page(draft.article, draft.blocks, look).encode(draft.encoding.codec)
    return Page(_url(rng, host, draft.article.title), dump, kind, group, draft.encoding.content_type, body)


def _plain_draft(rng: random.Random, language: str, low: int, high: int, encoding: Encoding) -> Draft:
    w = writer(rng, language)
    article = w.article(low, high)
    if encoding.codec == "latin-1":
        extra = f"The café near the square in {place_name(rng, 'en')} sells tea for £{rng.randint(2, 9)} a pot."
        article = replace(article, paragraphs=(*article.paragraphs, extra + " " + w.paragraph(2)))
    return Draft(
        article, body_blocks(article, rng, _extras(w, rng)), encoding, rng.choice(("notes", "weekly", "guide"))
    )


def _changed(rng: random.Random, draft: Draft) -> Draft:
    """A near-duplicate: only a year changed, or one paragraph rewritten."""
    years = re.findall(r"\b1[789]\d\d\b", draft.article.text)
    if years and rng.random() < 0.4:
        year = rng.choice(years)
        return replace(draft, blocks=draft.blocks.replace(year, str(int(year) + rng.randint(1, 9))))
    old = rng.choice([f"<p>{p}</p>" for p in draft.article.paragraphs if f"<p>{p}</p>" in draft.blocks])
    new = writer(rng, draft.article.language).paragraph(2)
    return replace(draft, blocks=draft.blocks.replace(old, f"<p>{new}</p>"))


def _encoding_of(language: str, number: int) -> Encoding:
    """A dozen Chinese pages declare GBK in the header only, a dozen in the meta tag only; ten English are latin-1."""
    if language == "zh":
        return {0: GBK_HEADER, 1: GBK_META}.get(number % 6, Encoding() if number % 6 != 2 else Encoding(header=""))
    return {3: LATIN_HEADER, 9: LATIN_META}.get(number % 26, Encoding())


def _good_pages(rng: random.Random) -> list[Page]:
    """Articles and tutorials; the first of each language are in the newer dump and have an older copy."""
    pages: list[Page] = []
    copies = 0
    for language, count, doubled in (("en", 130, 20), ("zh", 70, 8)):
        for number in range(count):
            low, high = (9, 11) if number < doubled else (5, 11)
            draft = _plain_draft(rng, language, low, high, _encoding_of(language, number))
            dump = NEW if number < doubled else DUMPS[number % 2]
            group = f"dup-{copies:02d}" if number < doubled else ""
            pages.append(_finish(rng, draft, dump, f"article_{language}", group))
            if group:
                pages.append(_copy(rng, draft, pages[-1], copies))
                copies += 1
    for number in range(25):
        article, blocks = code_article(rng)
        draft = Draft(article, blocks, Encoding(), "code")
        group = f"dup-{copies:02d}" if number < 2 else ""
        pages.append(_finish(rng, draft, NEW if number < 2 else DUMPS[number % 2], "code", group))
        if group:
            pages.append(_copy(rng, draft, pages[-1], 1))
            copies += 1
    return pages


def _copy(rng: random.Random, draft: Draft, original: Page, number: int) -> Page:
    """The older copy of a page: every third one exact (main text, same address), the others slightly changed."""
    if number % 3 == 0:
        twin = _finish(rng, draft, OLD, "exact_duplicate", original.group)
        return replace(twin, url=original.url)
    twin = _finish(rng, _changed(rng, draft), OLD, "near_duplicate", original.group)
    return replace(twin, url=original.url) if number % 3 == 1 else twin


def _bad_pages(rng: random.Random) -> list[Page]:
    """Pages that the rules or the classifiers should reject."""
    pages: list[Page] = []

    def add(kind: str, article: Article, number: int, host: str = "", word: str = "site") -> None:
        draft = Draft(article, body_blocks(article, rng), Encoding(), word, host)
        pages.append(_finish(rng, draft, DUMPS[number % 2], kind))

    for number in range(20):
        host = lists.GAMBLING_HOSTS[number] if number < len(lists.GAMBLING_HOSTS) else ""
        article = bad_article(rng, "advertisement", "zh" if number % 3 == 2 else "en", rng.randint(5, 8))
        add("advertisement", article, number, host, "shop")
    for number in range(8):
        host = lists.ADULT_HOSTS[number // 2] if number % 2 == 0 else ""
        add("adult", bad_article(rng, "adult", "zh" if number % 4 == 3 else "en", rng.randint(5, 7)), number // 2, host)
    for number in range(8):
        article = bad_article(rng, "toxic", "zh" if number % 4 == 3 else "en", rng.randint(5, 7))
        add("toxic", article, number, word="forum")
    for number in range(10):
        add("garbled", garbled_article(rng, "zh" if number % 4 == 3 else "en", rng.randint(5, 8)), number)
    for number in range(8):
        add("symbols" if number < 4 else "repeated", (symbol_article if number < 4 else repeated_article)(rng), number)
    makers: tuple[Callable[[Writer], tuple[str, ...]], ...] = (
        lambda w: (),
        lambda w: ("Please wait.",),
        lambda w: (w.sentence(),),
        lambda w: ("Page not found.",),
    )
    for number in range(8):
        w = writer(rng, "en")
        add("short", Article(w.title(), makers[number % 4](w), "en", "short"), number)
    return pages


def _leaking_pages(rng: random.Random) -> list[Page]:
    """Good articles in the middle of which an item of the demo's benchmark stands."""
    pages: list[Page] = []
    leaks = [("en", text) for text in benchmark_items.LEAKED] + [("zh", benchmark_items.LEAKED_CHINESE)]
    for number, (language, leak) in enumerate(leaks):
        article = writer(rng, language).article(7, 9)
        middle = len(article.paragraphs) // 2
        paragraphs = (*article.paragraphs[:middle], leak, *article.paragraphs[middle:])
        article = replace(article, paragraphs=paragraphs)
        draft = Draft(article, body_blocks(article, rng), Encoding(), "quiz")
        pages.append(_finish(rng, draft, DUMPS[number % 2], "benchmark"))
    return pages


def all_pages(seed: int) -> list[Page]:
    """Every HTML page, in a fixed shuffled order."""
    rng = random.Random(seed)
    pages = _good_pages(rng) + _bad_pages(rng)
    rng.shuffle(pages)
    for number, page_ in enumerate(_leaking_pages(random.Random(seed + 3))):
        pages.insert(40 * number + 20, page_)
    return pages
