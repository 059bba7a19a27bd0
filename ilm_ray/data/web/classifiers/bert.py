"""The report's kind of classifier: a pre-trained encoder with a head for two classes, fine-tuned on the labels.

Any encoder that Transformers loads as `AutoModelForSequenceClassification`: safetensors only, no code from the model's
folder. A text counts with its first 512 tokens.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from ilm_ray.base.errors import UserError
from ilm_ray.data.web.classifiers.labels import Labels

_MAX_TOKENS = 512
_SCORE_TOKENS = 16_384  # padded tokens in one forward pass
_WARMUP = 0.1  # share of the steps


@dataclass(frozen=True)
class BertSettings:
    """Settings of the fine-tuning. The report states none; these are the usual values for BERT."""

    base: str  # folder or hub id
    seed: int
    epochs: int = 3
    lr: float = 3e-5
    batch: int = 32  # texts


class Bert:
    """An encoder, its tokenizer, and the device that both run on."""

    kind = "bert"

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.tokenizer = model.to(self.device), tokenizer
        self.max_tokens = min(_MAX_TOKENS, int(getattr(model.config, "max_position_embeddings", _MAX_TOKENS)))

    @classmethod
    def load(cls, folder: Path) -> "Bert":
        """A classifier that `save` wrote. Raises UserError where the folder holds none."""
        return cls._load(str(folder), "train it again", local_files_only=True)

    @classmethod
    def fit(cls, training: Labels, settings: BertSettings) -> "Bert":
        """Fine-tune the base; classes count alike however many texts each has. Without epochs it is taken as it is; a
        regression head, as those for educational value have, becomes one of two classes: its logit is fitted to the
        labels (Platt scaling), which keeps the order of the texts.

        Raises UserError where the base cannot be loaded, or has another head.
        """
        torch.manual_seed(settings.seed)  # of the new head, and of dropout
        advice = "name a folder with config.json, model.safetensors and a tokenizer, or a hub id"
        if settings.epochs:
            made = cls._load(settings.base, advice, num_labels=2)
            made._train(training, settings)
            return made
        made = cls._load(settings.base, advice)
        if (classes := made.model.config.num_labels) == 1:
            made._split_regression(training)
        elif classes != 2:
            raise UserError(f"{settings.base} has a head of {classes} classes; --epochs 0 takes one or two of them")
        return made

    def _split_regression(self, training: Labels) -> None:
        """Replace the head's one output x by two classes, of which the second has the logit a x + b."""
        from sklearn.linear_model import LogisticRegression

        heads = [(name, m) for name, m in self.model.named_modules() if isinstance(m, torch.nn.Linear)]
        name, head = heads[-1]
        if head.out_features != 1:
            raise UserError(f"the encoder's last layer ({name}) is no regression head; name another model")
        values = self._outputs(training.texts)[:, :1]
        fitted = LogisticRegression(class_weight="balanced", C=1e6).fit(values, training.good)
        slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
        wider = torch.nn.Linear(head.in_features, 2, device=self.device)
        with torch.no_grad():
            bias = 0.0 if head.bias is None else head.bias[0]
            wider.weight.copy_(torch.stack((torch.zeros_like(head.weight[0]), slope * head.weight[0])))
            wider.bias.copy_(torch.stack((torch.zeros((), device=self.device), slope * bias + offset)))
        self.model.set_submodule(name, wider)
        self.model.config.num_labels, self.model.num_labels = 2, 2
        self.model.config.problem_type = None

    @classmethod
    def _load(cls, source: str, advice: str, **options: Any) -> "Bert":
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            model = AutoModelForSequenceClassification.from_pretrained(
                source, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, **options
            )
            local = {name: value for name, value in options.items() if name == "local_files_only"}
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **local)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise UserError(f"cannot load a classifier from {source}: {reason[:200]}; {advice}") from None
        return cls(model, tokenizer)

    def _train(self, training: Labels, settings: BertSettings) -> None:
        order = torch.Generator().manual_seed(settings.seed)
        count, goods = len(training.texts), int(training.good.sum())
        steps = settings.epochs * -(-count // settings.batch)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=settings.lr, weight_decay=0.01)
        warmup = max(1, round(_WARMUP * steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
        )
        balance = torch.tensor([count / (2 * (count - goods)), count / (2 * goods)], device=self.device)
        wanted = torch.from_numpy(training.good.astype(np.int64))
        self.model.train()
        for _ in range(settings.epochs):
            for chosen in torch.randperm(count, generator=order).split(settings.batch):
                logits = self._logits([training.texts[i] for i in chosen.tolist()])
                loss = torch.nn.functional.cross_entropy(logits, wanted[chosen].to(self.device), balance)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()

    def score(self, texts: list[str]) -> np.ndarray:
        """Probability of GOOD for each text, float64 [n]."""
        return torch.from_numpy(self._outputs(texts)).softmax(-1)[:, 1].numpy()

    def _outputs(self, texts: list[str]) -> np.ndarray:
        """The head's outputs for each text, float64 [n, classes]."""
        self.model.eval()
        outputs = np.zeros((len(texts), self.model.config.num_labels), np.float64)
        lengths = [min(len(text), 4 * self.max_tokens) for text in texts]  # texts of like length are padded little
        order = sorted(range(len(texts)), key=lambda i: lengths[i])
        size = max(1, _SCORE_TOKENS // self.max_tokens)
        with torch.inference_mode():
            for start in range(0, len(order), size):
                chosen = order[start : start + size]
                outputs[chosen] = self._logits([texts[i] for i in chosen]).double().cpu().numpy()
        return outputs

    def _logits(self, texts: list[str]) -> torch.Tensor:
        encoded = self.tokenizer(texts, truncation=True, max_length=self.max_tokens, padding=True, return_tensors="pt")
        logits: torch.Tensor = self.model(**encoded.to(self.device)).logits
        return logits

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration and tokenizer into `folder`."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
