"""Scores that the makers of InternLM2 publish, in per cent, from the model cards in github.com/InternLM/InternLM
(model_cards/internlm2_{1.8b,7b,20b}.md at commit fe4c2eb). Benchmarks that the cards leave out have no row here."""

MODELS = (
    "InternLM2-1.8B",
    "InternLM2-Chat-1.8B",
    "InternLM2-7B",
    "InternLM2-Chat-7B",
    "InternLM2-20B",
    "InternLM2-Chat-20B",
)
FIGURES = {
    "MMLU": (46.9, 44.1, 65.8, 63.7, 67.7, 66.5),
    "AGIEval": (33.4, 34.6, 49.9, 47.2, 53.0, 50.3),
    "BBH": (37.5, 34.3, 65.0, 61.2, 72.1, 68.3),
    "GSM8K": (31.2, 34.3, 70.8, 70.7, 76.1, 79.6),
    "MATH": (5.6, 10.7, 20.2, 23.0, 25.5, 31.9),
    "HumanEval": (25.0, 29.3, 43.3, 59.8, 48.8, 67.1),
    "MBPP sanitized": (22.2, 27.0, 51.8, 51.4, 63.0, 65.8),
}


def published(benchmark: str, kind: str) -> dict[str, float]:
    """Model -> figure, of the base models or of the chat models."""
    row = FIGURES.get(benchmark, ())
    wanted = "Chat" if kind == "chat" else ""
    return {model: figure for model, figure in zip(MODELS, row, strict=False) if ("Chat" in model) == bool(wanted)}
