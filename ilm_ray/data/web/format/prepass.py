"""A cheap look at a page before its extraction: resiliparse's plain text, a tenth of the work.

Its verdicts lose some pages that extraction would have saved; Format measures how many on a sample.
"""

from resiliparse.extract.html2text import extract_plain_text

from ilm_ray.data.documents.language import UNKNOWN, detect_language

SURE_CHARS = 400  # of the page's text, below which its language is left to the main text
SURE_SHARE = 0.8  # of the page's text that must be in the one language


def thrown_out(html: str, languages: list[str] | None, min_chars: int) -> str | None:
    """prepass_empty: the whole page shows less text than its main text needs; prepass_language: surely an unwanted one.

    None where the page deserves extraction.
    """
    text = extract_plain_text(html, preserve_formatting=False, main_content=False, alt_texts=False)
    if len(text) < min_chars:
        return "prepass_empty"
    if languages is None or len(text) < SURE_CHARS:
        return None
    language, share = detect_language(text)
    unwanted = language != UNKNOWN and language not in languages and share >= SURE_SHARE
    return "prepass_language" if unwanted else None
