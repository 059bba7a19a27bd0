"""The thresholds file: which row holds for a document, and one line for whatever is wrong with a file."""

from pathlib import Path

import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.data.longtext.thresholds import DIFFERENCE, first_failure, parse_thresholds, read_thresholds

TABLE = """
"*":
  en: {digit_ratio: [null, 0.2], conjunction_ratio: [0.02, null]}
  "*": {digit_ratio: [null, 0.3]}
books:
  zh: {digit_ratio: [null, 0.4], url_ratio: [0, 0.1]}
  "*": {conjunction_ratio: [null, null]}
"""


@pytest.mark.parametrize(
    ("domain", "language", "row"),
    [
        ("web", "en", {"digit_ratio": (None, 0.2), "conjunction_ratio": (0.02, None)}),
        ("web", "de", {"digit_ratio": (None, 0.3)}),
        ("books", "en", {"digit_ratio": (None, 0.2), "conjunction_ratio": (None, None)}),
        ("books", "zh", {"digit_ratio": (None, 0.4), "url_ratio": (0, 0.1)}),
    ],
)
def test_a_domains_row_replaces_what_it_names(domain: str, language: str, row: object) -> None:
    assert parse_thresholds(TABLE).of(domain, language) == row


def test_the_first_broken_bound_is_named() -> None:
    rules = parse_thresholds(TABLE).of("web", "en")
    scores = {"digit_ratio": 0.25, "conjunction_ratio": 0.01}
    failure = first_failure(scores, rules)
    assert failure is not None and (failure.rule, failure.value, failure.threshold) == ("digit_ratio", 0.25, 0.2)
    assert first_failure(scores | {"digit_ratio": 0.2}, {"digit_ratio": rules["digit_ratio"]}) is None
    assert first_failure({"digit_ratio": None}, rules) is None  # a score that could not be taken breaks nothing


def test_the_shipped_file_has_a_difference_for_every_row() -> None:
    table = parse_thresholds(read_thresholds(None))
    for domain, language in (("web", "en"), ("web", "zh"), ("web", "de"), ("code", "code"), ("papers", "fr")):
        assert DIFFERENCE in table.of(domain, language)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("en: {", "is not valid YAML"),
        ("- a", "must hold domain"),
        ("web: {en: {conjunktion_ratio: [0, 1]}}", "did you mean 'conjunction_ratio'"),
        ("web: {en: {digit_ratio: 3}}", r"takes \[lowest, highest\]"),
        ("web: {en: {digit_ratio: [0.5, 0.1]}}", "lies above"),
        ("web: {en: {digit_ratio: [low, 1]}}", r"takes \[lowest, highest\]"),
        ("web: {en: {digit_ratio: [.nan, 1]}}", r"takes \[lowest, highest\]"),
        ("web: {en: [1]}", "must be a table"),
        ("web: {no: {digit_ratio: [0, 1]}}", "web: a name is read as False; put it in quotes"),
        ("2024: {en: {digit_ratio: [0, 1]}}", "a name is read as 2024"),
        (None, "give the path of a YAML file"),
    ],
)
def test_a_wrong_file_is_named(content: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "thresholds.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=words) as refused:
        read_thresholds(str(path))
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
