"""Thresholds per domain and language, from one YAML file: domain -> language -> rule -> [lowest, highest].

The shipped one is `thresholds.yaml` beside this file; it says how it is read.
"""

import difflib
import math
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ilm_ray.base.errors import UserError
from ilm_ray.base.places import located
from ilm_ray.config.thresholds import Bounds
from ilm_ray.data.documents.document import Verdict
from ilm_ray.data.longtext.features import FEATURES

DIFFERENCE = "perplexity_difference"
RULES = (*FEATURES, DIFFERENCE)
ANY = "*"
RuleBounds = dict[str, Bounds]  # rule -> (lowest, highest), in the order in which they are asked


class Thresholds:
    """The rules of a document's domain and language."""

    def __init__(self, table: dict[str, dict[str, RuleBounds]]) -> None:
        self.table = table

    def of(self, domain: str, language: str) -> RuleBounds:
        """The row of all domains, with the values of the domain's own row in their place."""
        general, of_domain = self.table.get(ANY, {}), self.table.get(domain, {})
        return general.get(language, general.get(ANY, {})) | of_domain.get(language, of_domain.get(ANY, {}))


def first_failure(scores: dict[str, Any], rules: RuleBounds) -> Verdict | None:
    """The first rule whose bounds its score breaks; a score that is missing breaks none."""
    for rule, (low, high) in rules.items():
        value = scores.get(rule)
        if value is None:
            continue
        if low is not None and value < low:
            return Verdict(rule, value, low)
        if high is not None and value > high:
            return Verdict(rule, value, high)
    return None


def read_thresholds(path: str | None) -> str:
    """The text of the thresholds file; None: the shipped one. Raises UserError where it cannot be used."""
    where = f"long_text.thresholds={path}"
    try:
        text = (
            resources.files("ilm_ray.data.longtext").joinpath("thresholds.yaml").read_text(encoding="utf-8")
            if path is None
            else Path(located(path)).read_text(encoding="utf-8")
        )
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{where}: {reason}; give the path of a YAML file in UTF-8") from None
    parse_thresholds(text, where)
    return text


def parse_thresholds(text: str, where: str = "thresholds") -> Thresholds:
    """The table of a thresholds file. Raises UserError that names `where` and the mistake."""
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(loaded, dict) or not all(isinstance(rows, dict) for rows in loaded.values()):
        raise UserError(f"{where} must hold domain: {{language: {{rule: [lowest, highest]}}}}")
    return Thresholds(
        {
            _name(domain, where): {
                _name(language, f"{where}: {domain}"): _row(rules, f"{where}: {domain}.{language}")
                for language, rules in rows.items()
            }
            for domain, rows in loaded.items()
        }
    )


def _name(key: Any, where: str) -> str:
    """A domain or language. YAML takes some for something else: no, which is Norwegian, for false."""
    if not isinstance(key, str):
        raise UserError(f"{where}: a name is read as {key!r}; put it in quotes")
    return key


def _row(rules: Any, where: str) -> RuleBounds:
    if not isinstance(rules, dict):
        raise UserError(f"{where} must be a table: rule: [lowest, highest]")
    row: RuleBounds = {}
    for rule, bounds in rules.items():
        if rule not in RULES:
            near = difflib.get_close_matches(str(rule), RULES, n=1, cutoff=0.3)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(RULES)}"
            raise UserError(f"{where}: unknown rule '{rule}'; {hint}")
        if not isinstance(bounds, list) or len(bounds) != 2 or any(b is not None and not _is_bound(b) for b in bounds):
            raise UserError(f"{where}.{rule} takes [lowest, highest], null for no bound")
        low, high = bounds
        if low is not None and high is not None and low > high:
            raise UserError(f"{where}.{rule}: the lowest, {low}, lies above the highest, {high}")
        row[rule] = (low, high)
    return row


def _is_bound(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
