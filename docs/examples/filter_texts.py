"""Which rule removes which document: Format and Clean of the web text stage, without Ray and without a run folder.

    python docs/examples/filter_texts.py FILE ... [key.sub=value ...]

FILE: texts (.txt, or .jsonl with a field `text`, also .gz or .zst), everything else is read as a web archive. Settings
are those of the jobs, such as 'text.rules.en.symbol_ratio=[null, 0.1]'. One line a document on stdout, parted by tabs:
rule (or `kept`), value, threshold, URL. Dedup, Safe and High-quality need other documents or models, so they are left
to `jobs/web_text.py`.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence

from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import Row, batches
from ilm_ray.config import load_config
from ilm_ray.config.data import TextConfig
from ilm_ray.data.documents.document import judged
from ilm_ray.data.documents.sources import Source
from ilm_ray.data.web.clean.normalise import drop_chrome, normalise
from ilm_ray.data.web.clean.rules import first_failures, score_batch
from ilm_ray.data.web.format.rows import format_rows

TEXT_ENDINGS = (".txt", ".jsonl", ".jsonl.gz", ".jsonl.zst")
BATCH = 128  # documents whose rules are asked at once


def judged_documents(path: str, config: TextConfig) -> Iterator[Row]:
    """The documents of a file in order; one that falls has `drop_rule`, `drop_value` and `threshold`."""
    # A named source holds text, the source "" web archives.
    name = "texts" if path.endswith(TEXT_ENDINGS) else ""
    source = Source(index=0, rank=0, number=0, dump="example", path=path, source=name)
    for rows in batches(format_rows(source, config, Counter()), BATCH):
        left = [row for row in rows if "drop_rule" not in row]  # what Format did not remove
        texts = [drop_chrome(normalise(row["text"]))[0] for row in left]
        languages = [row["language"] for row in left]
        verdicts = first_failures(score_batch(texts, languages), languages, config.rules)
        of_clean = iter([judged(row, verdict) for row, verdict in zip(left, verdicts, strict=True)])
        for row in rows:
            yield row if "drop_rule" in row else next(of_clean)


def main(arguments: Sequence[str]) -> int:
    files = [word for word in arguments if "=" not in word]
    if not files:
        print(__doc__, file=sys.stderr)
        return 2
    fallen, documents = 0, 0
    try:
        config = load_config("nano", None, [word for word in arguments if "=" in word]).text
        for path in files:
            for row in judged_documents(path, config):
                documents, fallen = documents + 1, fallen + ("drop_rule" in row)
                said = [row.get("drop_rule", "kept"), row.get("drop_value", ""), row.get("threshold", ""), row["url"]]
                print("\t".join("" if word is None else str(word) for word in said))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{documents} documents, {fallen} removed", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
