"""Which rule removes which document: Format and Clean of the web text stage, without Ray and without a run folder.

    python docs/examples/filter_texts.py FILE ... [key.sub=value ...]

FILE: texts (.txt, or .jsonl with a field `text`, also .gz or .zst), everything else is read as a web archive. Settings
are those of the jobs, such as 'text.rules.en.symbol_ratio=[null, 0.1]'. One line a document on stdout, parted by tabs:
rule (or `kept`), value, threshold, URL. Dedup, Safe and High-quality need other documents or models, so they are left
to `jobs/web_text.py`.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ilm_ray.base.errors import UserError
from ilm_ray.config import load_config
from ilm_ray.config.data import TextConfig
from ilm_ray.data.documents.document import Document
from ilm_ray.data.documents.passes import FileTask
from ilm_ray.data.documents.sources import Source
from ilm_ray.data.web.steps import clean, format_file

TEXT_ENDINGS = (".txt", ".jsonl", ".jsonl.gz", ".jsonl.zst")


def judged_documents(path: str, config: TextConfig) -> Iterator[Document]:
    """The documents of a file in order; one that falls has `drop_rule`, `drop_value` and maybe `threshold`."""
    # A named source holds text, the source "" web archives.
    name = "texts" if path.endswith(TEXT_ENDINGS) else ""
    task = FileTask(Source(index=0, rank=0, number=0, dump="example", path=path, source=name), Path(), config)
    for batch in format_file(iter(()), task):
        left = [document for document in batch if document.drop_rule is None]  # what Format did not remove
        next(clean(iter([left]), task))
        yield from batch


def main(arguments: Sequence[str]) -> int:
    files = [word for word in arguments if "=" not in word]
    if not files:
        print(__doc__, file=sys.stderr)
        return 2
    fallen, documents = 0, 0
    try:
        config = load_config("nano", None, [word for word in arguments if "=" in word]).text
        for path in files:
            for document in judged_documents(path, config):
                documents, fallen = documents + 1, fallen + (document.drop_rule is not None)
                fate = [document.drop_rule or "kept", document.drop_value, document.threshold, document.url]
                print("\t".join("" if word is None else str(word) for word in fate))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{documents} documents, {fallen} removed", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
