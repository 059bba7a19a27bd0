"""The whole road as one resumable chain: WARC files -> an aligned chat model and its report.

    python jobs/pipeline.py [--preset nano] [--run-dir DIR] [input='GLOB of WARC files'] [key.sub=value ...]
    python jobs/pipeline.py --preset 7b base=FOLDER_OR_hf://owner/name from=sft [key.sub=value ...]

With a model of yours (`base`) the road begins at `from`: pretrain, sft, reward, ppo or evaluation (docs/your_model.md).
A stage whose settings, inputs and outputs are unchanged is skipped; the journal says why each ran or did not.
"""

from jobs import (
    code_data,
    decontaminate,
    evaluation,
    long_text,
    online_rlhf,
    ppo,
    pretrain,
    reward,
    sft,
    tokenize_corpus,
    tokenizer,
    web_text,
)
from jobs.frame.stages import run_job

STAGES = [
    module.STAGE
    for module in (
        web_text,
        code_data,
        decontaminate,
        tokenizer,
        tokenize_corpus,
        long_text,
        pretrain,
        sft,
        reward,
        ppo,
        online_rlhf,
        evaluation,
    )
]

if __name__ == "__main__":
    run_job("pipeline", STAGES)
