"""The peers' side of `clients.py`, run by the Python of an environment with Transformers, lm-eval and TRL.

Standard input, JSON: folder, url, texts, endings, talk, new. Prints FIGURES and one JSON object: client -> figures.
"""

import json
import re
import sys
import tempfile
from typing import Any

import torch
from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.openai_completions import LocalCompletionsAPI
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

Asked = dict[str, Any]


def transformers(asked: Asked) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(asked["folder"])
    model = AutoModelForCausalLM.from_pretrained(asked["folder"], dtype=torch.float32)
    means = []
    with torch.no_grad():
        for text in asked["texts"]:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            scores = model(ids).logits[0, :-1].log_softmax(-1)
            means.append(scores.gather(1, ids[0, 1:, None]).mean().item())
    prompt = tokenizer.apply_chat_template(
        asked["talk"][:1], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    whole = model.generate(**prompt, max_new_tokens=asked["new"], do_sample=False)[0, prompt["input_ids"].shape[1] :]
    return {"texts": means, "answer": tokenizer.decode(whole, skip_special_tokens=True)}


def lm_eval(asked: Asked, model: Any) -> dict[str, Any]:
    endings = [Instance("loglikelihood", {}, tuple(pair), n) for n, pair in enumerate(asked["endings"])]
    return {"endings": [value for value, _ in model.loglikelihood(endings)]}


def trl(asked: Asked, folder: str) -> dict[str, Any]:
    data = Dataset.from_list([{"messages": asked["talk"]}])
    settings = SFTConfig(
        output_dir=folder,
        assistant_only_loss=True,
        per_device_eval_batch_size=1,
        report_to=[],
        use_cpu=True,
        bf16=False,
        max_length=256,
        model_init_kwargs={"dtype": torch.float32},
    )
    trainer = SFTTrainer(asked["folder"], args=settings, train_dataset=data, eval_dataset=data)
    return {"loss": trainer.evaluate()["eval_loss"]}


def main() -> None:
    asked = json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(asked["folder"])
    rows = {"Transformers": transformers(asked)}
    rows["lm-eval, Transformers"] = lm_eval(asked, HFLM(pretrained=asked["folder"], dtype="float32", device="cpu"))
    remote = LocalCompletionsAPI(
        model="exported",
        base_url=f"{asked['url']}/v1/completions",
        tokenizer=asked["folder"],
        tokenizer_backend="huggingface",
        # It sends token ids, by itself without the begin token, which its Transformers back end puts in front.
        add_bos_token=tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id,
    )
    rows["lm-eval, completions"] = lm_eval(asked, remote)
    if re.search(r"{%-?\s*generation", tokenizer.chat_template):  # TRL refuses others
        with tempfile.TemporaryDirectory() as folder:
            rows["TRL"] = trl(asked, folder)
    print("FIGURES", json.dumps(rows))


if __name__ == "__main__":
    main()
