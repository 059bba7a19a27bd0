"""A second opinion on a failure from a language model behind an OpenAI-compatible endpoint. Nothing acts on it."""

from ilm_ray.base.endpoint import NoAnswer, ask
from ilm_ray.training.faults.diagnosis import Diagnosis

TIMEOUT_S = 30.0

_ASK = (
    "A distributed training run failed. Rules found what follows from traces of its ranks. In at most five sentences: "
    "is that the likely cause, what else could it be, and what should be looked at first?"
)


def second_opinion(url: str, model: str, diagnosis: Diagnosis) -> str:
    """Returns the endpoint's answer, or a line that says why there is none.

    url: base of the API, such as http://host:8000/v1. Only the category and the evidence lines are sent, no data.
    """
    try:
        return ask(url, model, _ASK, "\n".join([diagnosis.line(), *diagnosis.evidence]), 300, TIMEOUT_S)
    except NoAnswer as why:
        return f"no second opinion: {why}"
