"""The BERT back end on real actors: a tiny encoder with random weights learns a simple set."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.classifier import Scorers, train_bert
from demo import DATA
from ilm_ray.base.errors import UserError
from ilm_ray.data.web.classifiers.bert import Bert, BertSettings
from ilm_ray.data.web.classifiers.labels import Labels, split
from ilm_ray.data.web.classifiers.model import load_classifier
from tests.data.running import rows_of, run

WORDS = ["calm", "river", "stone", "loud", "sale", "offer", "page", "the", *"abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as one would download it: configuration, safetensors, tokenizer."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("base")
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=48, num_labels=2,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def labelled(count: int) -> Labels:
    rng = np.random.default_rng(0)
    good = rng.random(count) < 0.4
    words = [("calm", "river", "stone") if g else ("loud", "sale", "offer") for g in good]
    texts = [f"{chr(97 + i % 26)} {chr(97 + i // 26)} the {' '.join(rng.choice(w, 4))}" for i, w in enumerate(words)]
    return Labels(texts, good, ["en"] * count)


def test_a_tiny_encoder_learns_on_actors_and_scores_alike_everywhere(
    local_ray: None, base: Path, tmp_path: Path
) -> None:
    settings = BertSettings(str(base), seed=3, epochs=6, lr=2e-3, batch=16)
    card = train_bert("toxicity", split(labelled(300)), tmp_path, settings, {"files": {}}, workers=1, deadline_s=120.0)
    assert card["held_out"]["all"]["auc"] > 0.99 and card["held_out"]["all"]["accuracy"] > 0.95
    assert json.loads((tmp_path / "card.json").read_text()) == card
    assert not [p.name for p in tmp_path.iterdir() if p.suffix in (".bin", ".pt", ".pkl", ".py")]
    classifier = load_classifier(tmp_path)
    texts = ["calm river stone", "loud sale offer", "", "unknown " * 500, *labelled(40).texts]
    alone = classifier.score(texts)
    assert alone[0] > card["threshold"] > alone[1]
    assert classifier.score(texts[:1]) == pytest.approx(alone[:1], abs=1e-5)  # padding does not count
    with Scorers(tmp_path, 2, 60.0) as scorers:
        assert scorers.score(texts) == pytest.approx(alone, abs=1e-5)
        assert scorers.score([]).shape == (0,)


@pytest.mark.slow
def test_a_run_of_web_text_scores_with_it_on_actors(local_ray: None, base: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    settings = BertSettings(str(base), seed=3, epochs=1, lr=1e-3, batch=16)
    train_bert("toxicity", split(labelled(120)), model, settings, {"files": {}}, workers=1, deadline_s=120.0)
    pages = f"input={DATA}/web/CC-MAIN-2024-33/*.warc.gz"
    chosen = (f"text.classifiers.toxicity.model={model}", "text.classifiers.toxicity.threshold=0")
    text = run(tmp_path / "run", pages, *chosen)
    rows = rows_of(text, "safe", "kept") + rows_of(text, "safe", "removed")
    alone = load_classifier(model).score([row["text"] for row in rows])
    assert len(rows) > 50
    assert [row["toxicity_score"] for row in rows] == pytest.approx(alone.tolist(), abs=1e-3)


def test_same_labels_and_seed_give_the_same_bytes(base: Path, tmp_path: Path) -> None:
    settings = BertSettings(str(base), seed=3, epochs=1, lr=1e-3, batch=16)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Bert.fit(labelled(60), settings).save(tmp_path / name)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_no_model_no_training(base: Path, tmp_path: Path) -> None:
    for source in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match="cannot load a classifier"):
            Bert.fit(labelled(60), BertSettings(str(source), seed=1))
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in base.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(UserError, match="cannot load a classifier"):
        Bert.load(broken)
    (broken / "model.safetensors").unlink()
    torch.save({}, broken / "pytorch_model.bin")  # pickled weights are not read
    with pytest.raises(UserError, match="cannot load a classifier"):
        Bert.load(broken)


def test_a_regression_head_becomes_two_classes_in_the_same_order(base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, BertForSequenceClassification

    torch.manual_seed(5)
    model = BertForSequenceClassification.from_pretrained(base, num_labels=1, ignore_mismatched_sizes=True)
    with torch.no_grad():
        model.classifier.weight.mul_(50)
    model.save_pretrained(tmp_path / "regression")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.save_pretrained(tmp_path / "regression")
    texts = labelled(200).texts
    with torch.inference_mode():
        encoded = tokenizer(texts, padding=True, truncation=True, max_length=48, return_tensors="pt")
        values = model.eval()(**encoded).logits[:, 0].numpy()
    for sign in (1, -1):  # a model whose high values are bad is turned round
        good = sign * values > np.median(sign * values)
        made = Bert.fit(Labels(texts, good, ["en"] * 200), BertSettings(str(tmp_path / "regression"), 0, epochs=0))
        scores = made.score(texts)
        order = np.argsort(sign * values, kind="stable")
        assert (np.diff(scores[order]) >= -1e-5).all() and ((scores > 0.5) == good).mean() > 0.95
        made.save(tmp_path / f"saved{sign}")
        np.testing.assert_allclose(Bert.load(tmp_path / f"saved{sign}").score(texts), scores, atol=1e-6)
    wide = BertForSequenceClassification.from_pretrained(base, num_labels=3, ignore_mismatched_sizes=True)
    wide.save_pretrained(tmp_path / "wide")
    tokenizer.save_pretrained(tmp_path / "wide")
    with pytest.raises(UserError, match="a head of 3 classes"):
        Bert.fit(Labels(texts, good, ["en"] * 200), BertSettings(str(tmp_path / "wide"), 0, epochs=0))
