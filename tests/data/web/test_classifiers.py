"""Labels and their split, features against a plain definition, the linear back end, cards, the training job."""

import csv
import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from demo import DATA
from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import write_jsonl
from ilm_ray.config.data import ClassifierConfig, TextConfig
from ilm_ray.data.documents.language import TOKENS
from ilm_ray.data.documents.passes import FileTask
from ilm_ray.data.documents.paths import model_path
from ilm_ray.data.documents.sources import Source
from ilm_ray.data.web import steps
from ilm_ray.data.web.classifiers import NAMES, linear
from ilm_ray.data.web.classifiers.card import choose_threshold, curve, measures, write_card
from ilm_ray.data.web.classifiers.features import GROUP_PLACES, PLACES, group_places, logits, token_keys, vectors
from ilm_ray.data.web.classifiers.groups import learn_groups
from ilm_ray.data.web.classifiers.labels import Columns, Labels, read_labels, split
from ilm_ray.data.web.classifiers.linear import Linear
from ilm_ray.data.web.classifiers.model import check_classifier, load_classifier, provide, train_linear
from ilm_ray.data.web.safe.blocklist import fold
from ilm_ray.report.cards import write_card_page
from ilm_ray.report.explain import text_run
from jobs import train_classifier

# Tokens in one of two groups; all others have none.
GROUPED = ["a", "b", "e1", "坏", "话", ",", "."]


def grouped() -> np.ndarray:
    groups = np.zeros(GROUP_PLACES, np.uint16)
    for token in GROUPED:
        groups[group_places(token_keys([token])[0][1:2])] = 1 + ord(token[0]) % 2
    return groups


def plain_group(token: str) -> int:
    word = token.removeprefix("w").replace("0", "1")
    return 1 + ord(word[0]) % 2 if word in GROUPED else 0


def plain_features(text: str) -> set[tuple[Any, ...]]:
    """What the module's docstring says, with names for hashes."""
    folded = re.sub("[0-9]", "0", fold(text))
    features: set[tuple[Any, ...]] = set()
    tokens, shapes = ["<"], ["<"]
    at = 0
    while at < len(folded):
        match = TOKENS.match(folded, at)
        if match is None or re.match("[㐀-䶿一-鿿]", match[0]):
            if not folded[at].isspace():
                tokens.append(folded[at])
                shapes.append(folded[at])
            at += 1
            continue
        word = match[0]
        capitals = sum(a != b for a, b in zip(text[at : match.end()], fold(text[at : match.end()]), strict=True))
        style = 0 if not capitals else 2 if capitals == len(word) > 1 else 1
        tokens.append("w" + word)
        shapes.append(f"{'=' if len(word) <= 3 else '~'}{style}{word[-3:]}")
        if style:
            features |= {("capitals", style), ("capitals", style, word)}
        edged = f" {word} "
        features |= {("letters", edged[i : i + n]) for n in (3, 4, 5) for i in range(len(edged) - n + 1)}
        at = match.end()
    tokens.append(">")
    shapes.append(">")
    inner, last = tokens[1:-1], len(tokens) - 2
    features |= {("tokens", *inner[i : i + n]) for n in (1, 2, 3) for i in range(len(inner) - n + 1)}
    features |= {("around", inner[i], inner[i + 2]) for i in range(len(inner) - 2)}
    features |= {("shapes", *shapes[i : i + n]) for n in (2, 3, 4) for i in range(len(shapes) - n + 1)}
    groups = [plain_group(token) for token in tokens]
    features |= {("groups", *groups[i : i + n]) for n in (2, 3, 4, 5) for i in range(len(groups) - n + 1)}
    features |= {("before", groups[i], tokens[i + 1]) for i in range(last + 1)}
    features |= {("behind", tokens[i], groups[i + 1]) for i in range(last + 1)}
    features |= {("around any", groups[i], groups[i + 2]) for i in range(last)}
    features |= {("around token", groups[i], tokens[i + 1], groups[i + 2]) for i in range(last)}
    for i in range(1, last + 1):
        j = next((j for j in range(i + 1, min(i + 8, last) + 1) if tokens[j] == tokens[i]), None)
        if j is not None:
            features.add(("again", j - i, shapes[i]))
            if tokens[i + 1] == tokens[j + 1]:
                features.add(("pair again", j - i))
    return features


@pytest.mark.long
def test_two_texts_share_the_features_that_the_definition_says() -> None:
    """Features that are not the same share a place as often as hashing makes them, and no oftener."""
    rng = np.random.default_rng(0)
    alphabet = list("aAbBcé1٣ .,!\n_-坏话が")
    texts = ["", "a", *("".join(rng.choice(alphabet, n)) for n in rng.integers(1, 41, 800))]
    defined = [plain_features(text) for text in texts]
    matrix = vectors(texts, grouped())
    lengths = np.diff(matrix.indptr)
    collisions = expected = 0.0
    for i, features in enumerate(defined):
        expected += len(features) ** 2 / 2 / PLACES
        collisions += len(features) - lengths[i]
        assert lengths[i] <= len(features)
    for i in range(0, len(texts), 2):
        first, second = defined[i], defined[i + 1]
        product = (matrix[i] @ matrix[i + 1].T).toarray()[0, 0] * np.sqrt(lengths[i] * lengths[i + 1])
        assert product == pytest.approx(round(product), abs=1e-3) and round(product) >= len(first & second)
        expected += len(first) * len(second) / PLACES
        collisions += round(product) - len(first & second)
    assert collisions == pytest.approx(expected, abs=4 * np.sqrt(expected))


def test_scoring_is_the_product_with_the_weights() -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(PLACES).astype(np.float32)
    alphabet = list("aBcde 坏话.\n1\ud800İ")
    texts = ["", " ", *("".join(rng.choice(alphabet, n)) for n in rng.integers(1, 3000, 50))]
    assert logits(texts, weights, grouped()) == pytest.approx(
        vectors(texts, grouped()) @ weights.astype(np.float64), abs=1e-4
    )
    assert logits([], weights, grouped()).shape == (0,)


@pytest.mark.long
def test_tokens_that_keep_the_same_company_share_a_group() -> None:
    """A made language: every sentence is subject, verb, object, end; the words of a class are drawn alike."""
    rng = np.random.default_rng(0)
    classes = {kind: [f"{kind}{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(200)] for kind in "svo"}
    texts = [" ".join(rng.choice(words) for words in classes.values()) + "." for _ in range(20_000)]
    groups = learn_groups(texts, 1)
    members = {kind: set(groups[group_places(token_keys([" ".join(classes[kind])])[0][1:-1])]) for kind in classes}
    assert all(members.values()) and 0 not in set.union(*members.values())
    assert not members["s"] & members["v"] | members["v"] & members["o"] | members["o"] & members["s"]
    assert np.array_equal(groups, learn_groups(texts, 1))
    assert not learn_groups(texts[:50], 1).any() and not learn_groups([], 1).any()


def labelled(count: int, seed: int = 0) -> Labels:
    rng = np.random.default_rng(seed)
    good = rng.random(count) < 0.5
    words = [("calm", "river", "stone") if g else ("loud", "sale", "offer") for g in good]
    texts = [" ".join(rng.choice(w, 6)) + f" page {'x' * (i % 50)} {chr(97 + i % 26)}" for i, w in enumerate(words)]
    return Labels(texts, good, ["en" if i % 2 else "zh" for i in range(count)])


@pytest.mark.long
def test_a_classifier_learns_scores_good_high_and_survives_saving(tmp_path: Path) -> None:
    card = train_linear("toxicity", split(labelled(400)), tmp_path / "a", 1, {"files": {"x<script>": "0"}})
    assert card["held_out"]["all"]["auc"] > 0.99 and set(card["held_out"]) == {"all", "en", "zh"}
    classifier = load_classifier(tmp_path / "a")
    scores = classifier.score(["calm river stone", "loud sale offer"])
    assert scores[0] > card["threshold"] > scores[1]
    assert json.loads((tmp_path / "a" / "card.json").read_text()) == card
    assert "<script>" not in write_card_page(tmp_path / "a").read_text()
    train_linear("toxicity", split(labelled(400)), tmp_path / "b", 1, {"files": {"x<script>": "0"}})
    write_card_page(tmp_path / "b")
    for name in ("model.npz", "card.json", "card.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_solver_for_many_labels_learns_the_same_and_twice_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = Linear.fit(labelled(400), labelled(80, seed=1), 1)
    monkeypatch.setattr(linear, "_EXACT_TEXTS", 10)
    first, second = (Linear.fit(labelled(400), labelled(80, seed=1), 1) for _ in range(2))
    assert np.array_equal(first.weights, second.weights) and first.bias == second.bias
    fresh = labelled(200, seed=2)
    assert not np.array_equal(first.weights, exact.weights)
    assert (((first.score(fresh.texts) > 0.5) == (exact.score(fresh.texts) > 0.5)).mean()) > 0.98


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    train_linear("toxicity", split(labelled(400)), tmp_path, 1, {})
    whole = (tmp_path / "model.npz").read_bytes()
    for damaged in (whole[:100], b"", b"no zip"):
        (tmp_path / "model.npz").write_bytes(damaged)
        with pytest.raises(UserError, match="no classifier"):
            load_classifier(tmp_path)
    for card in ("{", '{"kind": "pickle"}', "[]"):
        (tmp_path / "card.json").write_text(card)
        with pytest.raises(UserError, match="no classifier"):
            load_classifier(tmp_path)
    with pytest.raises(UserError, match="no classifier"):
        load_classifier(tmp_path / "none")


def test_a_run_takes_a_finished_model_or_trains_its_own(tmp_path: Path) -> None:
    labels = DATA / "labels" / "toxicity.jsonl"
    labelled = ClassifierConfig(labels=str(labels))
    folder = provide("toxicity", labelled, tmp_path / "own", 1)
    finished = ClassifierConfig(model=str(tmp_path / "own"))
    assert provide("toxicity", finished, tmp_path / "run" / "copy", 2) == folder  # copied, not trained
    scores = [load_classifier(tmp_path / name).score(["some text"])[0] for name in ("own", "run/copy")]
    assert scores[0] == scores[1]
    stamp = (tmp_path / "own" / "model.npz").stat().st_mtime_ns
    provide("toxicity", labelled, tmp_path / "own", 1)
    assert (tmp_path / "own" / "model.npz").stat().st_mtime_ns == stamp
    assert check_classifier(finished) == tmp_path / "own"
    assert check_classifier(labelled) == labels
    assert finished.named and labelled.named and not ClassifierConfig().named
    with pytest.raises(UserError, match="no classifier"):
        check_classifier(ClassifierConfig(model=str(tmp_path)))


def test_scores_are_probabilities_among_as_many_good_as_bad_texts() -> None:
    """Calibration: of texts scored p, about p are good; here nine tenths of what a text shows is its class's."""
    rng = np.random.default_rng(3)

    def noisy(count: int) -> Labels:
        good = rng.random(count) < 0.5
        shown = good ^ (rng.random(count) < 0.1)
        texts = [("calm" if s else "loud") + f" {rng.integers(50)} words {i}" for i, s in enumerate(shown)]
        return Labels(texts, good, ["en"] * count)

    classifier, fresh = Linear.fit(noisy(3000), noisy(500), 1), noisy(2000)
    scores = classifier.score(fresh.texts)
    for half in (scores < 0.5, scores >= 0.5):
        assert scores[half].mean() == pytest.approx(fresh.good[half].mean(), abs=0.05)


def test_training_does_not_depend_on_the_machines_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    from sklearn.linear_model import LogisticRegression

    fit = LogisticRegression.fit

    def watched(*arguments: Any) -> Any:
        seen.extend(pool["num_threads"] for pool in threadpool_info())
        return fit(*arguments)

    monkeypatch.setattr(LogisticRegression, "fit", watched)
    with threadpool_limits(2):
        Linear.fit(labelled(40), labelled(40, seed=1), seed=1)
    assert set(seen) == {1}


def test_copies_of_a_text_lie_in_one_part() -> None:
    labels = labelled(300)
    copies = Labels([f"{t.upper()}!" for t in labels.texts], labels.good, labels.languages)
    parts = split(labels + copies)
    kept = [{tuple(TOKENS.findall(t.lower())) for t in part.texts} for part in vars(parts).values()]
    assert not (kept[0] & kept[1] or kept[0] & kept[2] or kept[1] & kept[2])
    assert sum(len(part.texts) for part in vars(parts).values()) == 600
    assert 0.1 < len(parts.held_out.texts) / 600 < 0.3


def test_what_a_test_file_holds_is_not_trained_on() -> None:
    labels, held = labelled(300), labelled(60)  # the same generator: the first 60 texts are the same
    parts = split(labels, held)
    assert parts.held_out is held
    assert not {*parts.training.texts, *parts.threshold.texts} & set(held.texts)
    assert len(parts.training.texts) + len(parts.threshold.texts) == sum(t not in held.texts for t in labels.texts)


ROWS = [('good, "quoted"\ttext', 1, "en"), ("坏\n话", 0, "zh"), ("plain", 0, "")]


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.jsonl.zst", "x.csv", "x.csv.gz", "x.csv.zst"])
def test_labels_are_read_from_every_format(tmp_path: Path, name: str) -> None:
    path = tmp_path / name.replace(".gz", "").replace(".zst", "")
    if ".jsonl" in name:
        write_jsonl(path, ({"text": t, "label": g, "language": code or None} for t, g, code in ROWS))
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as out:
            writer = csv.writer(out)
            writer.writerows([("language", "label", "text"), *((code, g, t) for t, g, code in ROWS)])
    if name.endswith("gz"):
        (tmp_path / name).write_bytes(gzip.compress(path.read_bytes()))
    elif name.endswith("zst"):
        (tmp_path / name).write_bytes(zstandard.ZstdCompressor().compress(path.read_bytes()))
    labels = read_labels(tmp_path / name)
    assert (labels.texts, labels.good.tolist()) == ([r[0] for r in ROWS], [True, False, False])
    assert labels.languages == ["en", "zh", "unknown"]


def test_foreign_columns_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text('Label\tSMS\nham\tsay "hi\nspam\t"FREE"\n')
    labels = read_labels(tmp_path / "x.tsv", Columns("SMS", "Label", good=frozenset({"ham"})))
    assert labels.texts == ['say "hi', '"FREE"'] and labels.good.tolist() == [True, False]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b"", "no bad text|no good text"),
        ("x.jsonl", b'{"text": "a", "label": 1}\n' * 20, "no bad text"),
        ("x.jsonl", b'{"text": "a", "label": 3}\n', "line 1: want a text in 'text' and 0 or 1 in 'label'"),
        ("x.jsonl", b'{"text": "a", "label": 0.5}\n', "label 0.5"),
        ("x.jsonl", b'{"label": 1}\n', "line 1"),
        ("x.jsonl", b"[1]\n", "line 1"),
        ("x.jsonl", b"{\n", "cannot read labels"),
        ("x.csv", b"text,label\na,1\nb\n", "line 3"),
        ("x.csv", b'text,label\n"a,1\n', "cannot read labels"),
        ("x.csv", "text,label\n坏,1\n".encode("gbk"), "cannot read labels"),
        ("x.jsonl.gz", b"no gzip", "cannot read labels"),
        ("x.jsonl.zst", b"no zstd", "cannot read labels"),
        ("x.parquet", b"", "want .jsonl, .csv or .tsv"),
    ],
)
def test_wrong_labels_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        split(read_labels(tmp_path / name))


@pytest.mark.long
def test_the_shipped_labels_give_classifiers_that_separate_them(tmp_path: Path) -> None:
    for name in NAMES:
        card = train_linear(name, split(read_labels(DATA / "labels" / f"{name}.jsonl")), tmp_path / name, 1234, {})
        assert card["held_out"]["all"]["auc"] > 0.99 and card["held_out"]["all"]["accuracy"] > 0.95


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_figures_are_those_of_a_count_by_hand(rows: list[tuple[float, bool]]) -> None:
    scores, good = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    threshold = choose_threshold(scores, good)

    def mistakes(at: float) -> int:
        return sum((score < at) == is_good for score, is_good in rows)

    hits = sum(score < threshold and not is_good for score, is_good in rows)
    fallen, bad = sum(score < threshold for score, _ in rows), sum(not is_good for _, is_good in rows)
    figures = measures(scores, good, threshold)
    assert figures["accuracy"] == pytest.approx(1 - mistakes(threshold) / len(rows), abs=1e-4)
    assert figures["f1"] == pytest.approx(2 * hits / max(1, fallen + bad), abs=1e-4)
    assert mistakes(threshold) == min(mistakes(t / 100) for t in range(1, 100))
    for row in curve(scores, good):
        removed = [g for s, g in rows if s < row["threshold"]]
        assert row["removed"] == pytest.approx(len(removed) / len(rows), abs=1e-4)
        assert row["precision"] == pytest.approx(removed.count(False) / max(1, len(removed)), abs=1e-4)


def test_the_job_trains_from_files_and_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = labelled(200)
    with (tmp_path / "a.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["body", "class"])
        writer.writerows(zip(labels.texts, ["fine" if g else "bad" for g in labels.good], strict=True))
    columns = ["--text-column", "body", "--label-column", "class", "--good", "fine"]
    call = ["--name", "toxicity", "--out", str(tmp_path / "m"), *columns]
    assert train_classifier.main([*call, str(tmp_path / "a.csv")]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["status"] == "done" and summary["auc"] > 0.99 and Path(summary["card"]).is_file()
    assert load_classifier(tmp_path / "m").score(["loud sale offer"])[0] < summary["threshold"]
    (tmp_path / "file").touch()
    for arguments, message in (
        ([*call, str(tmp_path / "none.csv")], "cannot read labels"),
        ([*call[:3], str(tmp_path / "file" / "m"), *columns, str(tmp_path / "a.csv")], "cannot write to --out"),
        ([*call, "--backend", "bert", str(tmp_path / "a.csv")], "--base"),
        (["--name", "x"], "required"),
    ):
        assert train_classifier.main(arguments) == 2
        printed = capsys.readouterr()
        assert message in json.loads(printed.out.splitlines()[-1])["error"] and printed.err.count("\n") == 1


def test_a_model_is_used_with_the_threshold_of_its_card_unless_one_is_set(tmp_path: Path) -> None:
    """From the same rows: what a run judges with and what its report says are the same number."""
    folder = tmp_path / "run" / "text"
    model = model_path(folder, "fluency")
    model.mkdir(parents=True)
    write_card(model, {"kind": "linear", "threshold": 0.27})
    source = Source(0, 0, 0, "d", "x.warc")
    for set_, used in ((None, 0.27), (0.6, 0.6)):
        config = TextConfig.model_validate({"classifiers": {"fluency": {"model": "/m", "threshold": set_}}})
        assert steps._bounds(FileTask(source, folder, config), "advertisement", "fluency") == {"fluency": used}
        settings = text_run._with_thresholds(config.model_dump(), folder)
        assert text_run.bounds(settings, "fluency", "en") == (used, None)
    (model / "card.json").write_text('{"kind": "linear"}')
    with pytest.raises(UserError, match="it has no threshold"):
        steps._bounds(FileTask(source, folder, TextConfig.model_validate(UNSET)), "fluency")


UNSET = {"classifiers": {"fluency": {"model": "/m"}}}
