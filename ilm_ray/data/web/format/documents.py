"""Format (report section 3.1): archives and text files to documents with main text, title, language and id."""

import functools
import zlib
from collections import Counter
from collections.abc import Iterator

from ilm_ray.config.data import TextConfig
from ilm_ray.data.documents.document import Document, Verdict
from ilm_ray.data.documents.language import detect_language
from ilm_ray.data.documents.sources import Source
from ilm_ray.data.web.format.child import Extracted, Page
from ilm_ray.data.web.format.extract import MEMORY_BYTES, Extractor
from ilm_ray.data.web.format.inputs import open_source
from ilm_ray.data.web.format.plain import MAX_BYTES, read_texts
from ilm_ray.data.web.format.warc import read_captures

CHECKED_ONE_IN = 32  # of the pages that the pre-pass throws out, one in so many is extracted to see what is lost


def format_documents(source: Source, config: TextConfig, counts: Counter[str]) -> Iterator[Document]:
    """A file's documents in order, those to be removed with their verdict.

    `config` holds the source's own settings. `counts` gains the numbers of captures read and skipped (see
    `read_captures`, `read_texts`), and prepass_checked, prepass_lost: pages of the sample that the pre-pass threw out,
    and those of them that would have become documents. Raises UserError where the file cannot be read.
    """
    return _of_texts(source, config, counts) if source.source else _of_pages(source, config, counts)


def in_sample(document_id: int, one_in: int) -> bool:
    """Whether the document is in a fixed, evenly spread share of all."""
    return zlib.crc32(document_id.to_bytes(8, "little")) % one_in == 0


def _of_pages(source: Source, config: TextConfig, counts: Counter[str]) -> Iterator[Document]:
    languages = None if config.languages is None else tuple(config.languages)
    extractor = _extractor(config.extract_timeout_s, config.prepass, languages, config.min_chars)
    with open_source(source) as stream:

        def jobs() -> Iterator[tuple[Document, Page | None]]:
            for number, capture in enumerate(read_captures(stream, config.max_html_bytes, counts)):
                document = _new(source, number, capture.url, capture.date)
                if capture.size > config.max_html_bytes:
                    document.judge(Verdict("max_html_bytes", capture.size, config.max_html_bytes))
                    yield document, None
                else:
                    checked = config.prepass and in_sample(document.id, CHECKED_ONE_IN)
                    yield document, Page(capture.body, capture.charset, checked)

        for document, extracted in extractor.extract_all(jobs()):
            if extracted is not None:
                _take(document, extracted, config, counts)
            yield document


@functools.lru_cache(maxsize=1)
def _extractor(timeout_s: float, prepass: bool, languages: tuple[str, ...] | None, min_chars: int) -> Extractor:
    """One child a worker process, not one a file: it takes 0.4 s to start. It ends with the process."""
    return Extractor(timeout_s, prepass, languages, min_chars)


def _take(document: Document, extracted: Extracted, config: TextConfig, counts: Counter[str]) -> None:
    """Put the result of the page into its document."""
    document.charset, document.title = extracted.charset, extracted.title
    limits = {"extract_timeout": config.extract_timeout_s, "extract_memory": MEMORY_BYTES}
    if extracted.failure:
        document.judge(Verdict(extracted.failure, "", limits.get(extracted.failure)))
    else:
        _take_text(document, extracted.text, config)
    if extracted.prepass is None:
        return
    if extracted.failure != extracted.prepass:  # a checked page: extracted all the same
        counts["prepass_checked"] += 1
        counts["prepass_lost"] += document.drop_rule is None
    document.judge(Verdict(extracted.prepass, "", None))


def _of_texts(source: Source, config: TextConfig, counts: Counter[str]) -> Iterator[Document]:
    for place, file in enumerate(source.files()):
        with open_source(file) as stream:
            for text in read_texts(stream, file.path, file.text_field, counts):
                document = _new(source, place if source.more else text.number, text.url, text.date)
                document.charset, document.title = text.charset, text.title
                if text.size > MAX_BYTES:
                    document.judge(Verdict("max_text_bytes", text.size, MAX_BYTES))
                elif not text.text.strip():
                    document.judge(Verdict("no_text", "", None))
                else:
                    _take_text(document, text.text, config)
                yield document


def _new(source: Source, number: int, url: str, date: str) -> Document:
    return Document(source.document_id(number), url, source.dump, source.source, date)


def _take_text(document: Document, text: str, config: TextConfig) -> None:
    document.set_text(text)
    document.columns["extracted_chars"] = document.chars  # what `min_chars` saw: Clean changes the text
    document.language, document.language_score = detect_language(text)
    if document.chars < config.min_chars:
        document.judge(Verdict("min_chars", document.chars, config.min_chars))
    elif config.languages is not None and document.language not in config.languages:
        document.judge(Verdict("language", document.language, None))
