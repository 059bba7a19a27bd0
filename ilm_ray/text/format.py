"""Format: input files -> documents with main text, language and id (report section 3.1)."""

from collections import Counter
from collections.abc import Iterator

from ilm_ray.config.schema import TextConfig
from ilm_ray.corpus.jsonl import Row
from ilm_ray.text.charset import decode
from ilm_ray.text.document import Verdict, judged, sized
from ilm_ray.text.extract import Extractor
from ilm_ray.text.inputs import open_source
from ilm_ray.text.language import UNKNOWN, detect_language
from ilm_ray.text.sources import Source
from ilm_ray.text.warc import Capture, read_captures


def format_rows(source: Source, config: TextConfig, counts: Counter[str]) -> Iterator[Row]:
    """The documents of a WARC file; `counts` gains what its records were."""
    with open_source(source) as stream, Extractor(config.extract_timeout_s) as extractor:
        for number, capture in enumerate(read_captures(stream, config.max_html_bytes, counts)):
            yield _document(source, number, capture, extractor, config)


def _document(source: Source, number: int, capture: Capture, extractor: Extractor, config: TextConfig) -> Row:
    row: Row = {"id": source.document_id(number), "url": capture.url, "dump": source.dump, "source": source.source}
    row |= sized("") | {"date": capture.date, "charset": None, "language": UNKNOWN, "language_score": 0.0}
    if capture.size > config.max_html_bytes:
        return judged(row, Verdict("max_html_bytes", capture.size, config.max_html_bytes))
    html, row["charset"] = decode(capture.body, capture.charset)
    extracted = extractor.extract(html)
    if extracted.failure:
        limit = config.extract_timeout_s if extracted.failure == "extract_timeout" else None
        return judged(row, Verdict(extracted.failure, "", limit))
    row |= sized(extracted.text)
    row["language"], row["language_score"] = detect_language(extracted.text)
    if row["chars"] < config.min_chars:
        return judged(row, Verdict("min_chars", row["chars"], config.min_chars))
    if config.languages is not None and row["language"] not in config.languages:
        return judged(row, Verdict("language", row["language"], None))
    return row
