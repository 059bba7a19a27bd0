"""Run the whole road as one resumable chain: WARC files -> an aligned chat model and its report.

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
        web_text,  # archives, text, tables -> text/: documents, filtered and deduplicated
        code_data,  # source trees -> code/: documents, one for each group of files in dependency order
        decontaminate,  # documents, benchmarks -> decontamination/: ids of documents that hold a test item
        tokenizer,  # documents -> tokenizer/: cl100k's first tokens and learned Chinese ones
        tokenize_corpus,  # documents less those ids, tokenizer -> tokens/: shards for training and held out
        long_text,  # tokens -> long_text/: marks of long documents that are worth a long context
        pretrain,  # tokens, marks -> pretrain/: a base model, over phases of context and mixture
        sft,  # base model, conversations -> sft/: a chat model
        reward,  # chat model, preference pairs -> reward/: a conditional reward model
        ppo,  # chat model, reward model, prompts -> ppo/: an aligned chat model, by five actor groups
        online_rlhf,  # answers of PPO -> online/, rounds/: what was hacked, patches, further rounds
        evaluation,  # all models, held-out data -> evaluation/: figures of the report
    )
]

if __name__ == "__main__":
    run_job("pipeline", STAGES)
