"""Format (report section 3.1): archives and text files to documents with main text, language and id."""

import zlib
from collections import Counter
from collections.abc import Iterator

from ilm_ray.base.jsonl import Row
from ilm_ray.config.data import TextConfig
from ilm_ray.data.documents.document import Verdict, judged, sized
from ilm_ray.data.documents.language import UNKNOWN, detect_language
from ilm_ray.data.documents.sources import Source
from ilm_ray.data.web.format.child import Extracted, Page
from ilm_ray.data.web.format.extract import MEMORY_BYTES, Extractor
from ilm_ray.data.web.format.inputs import open_source
from ilm_ray.data.web.format.plain import MAX_BYTES, read_documents
from ilm_ray.data.web.format.warc import read_captures

CHECKED_ONE_IN = 32  # of the pages that the pre-pass throws out, one in so many is extracted to see what is lost


def format_rows(source: Source, config: TextConfig, counts: Counter[str]) -> Iterator[Row]:
    """A file's documents in order; those to be removed carry drop_rule, drop_value, threshold.

    `config` holds the source's own settings. `counts` gains what was read and skipped
    (see `read_captures`, `read_documents`), and prepass_checked, prepass_lost: pages of the sample that the pre-pass
    threw out, and those of them that would have become documents. Raises UserError where the file cannot be read.
    """
    return _plain_rows(source, config, counts) if source.source else _web_rows(source, config, counts)


def in_sample(document_id: int, one_in: int) -> bool:
    """Is the document one of a fixed, evenly spread share of all?"""
    return zlib.crc32(document_id.to_bytes(8, "little")) % one_in == 0


def _web_rows(source: Source, config: TextConfig, counts: Counter[str]) -> Iterator[Row]:
    extractor = Extractor(config.extract_timeout_s, config.prepass, config.languages, config.min_chars)
    with open_source(source) as stream, extractor:

        def jobs() -> Iterator[tuple[Row, Page | None]]:
            for number, capture in enumerate(read_captures(stream, config.max_html_bytes, counts)):
                row = _row(source, number, capture.url, capture.date)
                if capture.size > config.max_html_bytes:
                    yield judged(row, Verdict("max_html_bytes", capture.size, config.max_html_bytes)), None
                else:
                    checked = config.prepass and in_sample(row["id"], CHECKED_ONE_IN)
                    yield row, Page(capture.body, capture.charset, checked)

        for row, extracted in extractor.extract_all(jobs()):
            yield row if extracted is None else _extracted(row, extracted, config, counts)


def _extracted(row: Row, extracted: Extracted, config: TextConfig, counts: Counter[str]) -> Row:
    row["charset"] = extracted.charset
    limits = {"extract_timeout": config.extract_timeout_s, "extract_memory": MEMORY_BYTES}
    outcome = (
        judged(row, Verdict(extracted.failure, "", limits.get(extracted.failure)))
        if extracted.failure
        else _judged(row, extracted.text, config)
    )
    if extracted.prepass is None:
        return outcome
    if extracted.failure != extracted.prepass:  # a checked page: extracted all the same
        counts["prepass_checked"] += 1
        counts["prepass_lost"] += "drop_rule" not in outcome
    return judged(row, Verdict(extracted.prepass, "", None))


def _plain_rows(source: Source, config: TextConfig, counts: Counter[str]) -> Iterator[Row]:
    with open_source(source) as stream:
        for document in read_documents(stream, source.path, source.text_field, counts):
            row = _row(source, document.number, document.url, document.date) | {"charset": document.charset}
            if document.size > MAX_BYTES:
                yield judged(row, Verdict("max_text_bytes", document.size, MAX_BYTES))
            elif not document.text.strip():
                yield judged(row, Verdict("no_text", "", None))
            else:
                yield _judged(row, document.text, config)


def _row(source: Source, number: int, url: str, date: str) -> Row:
    row = {"id": source.document_id(number), "url": url, "dump": source.dump, "source": source.source, "date": date}
    return row | {"charset": None, "language": UNKNOWN, "language_score": 0.0} | sized("")


def _judged(row: Row, text: str, config: TextConfig) -> Row:
    language, score = detect_language(text)
    row = row | sized(text) | {"language": language, "language_score": score}
    if row["chars"] < config.min_chars:
        return judged(row, Verdict("min_chars", row["chars"], config.min_chars))
    if config.languages is not None and language not in config.languages:
        return judged(row, Verdict("language", language, None))
    return row
