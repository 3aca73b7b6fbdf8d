"""BERT-CT: pre-training continued on the passages of a domain, before the dual encoder is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

from fletching.errors import missing_extra
from fletching.methods.multi_cpr.config import BASE
from fletching.methods.multi_cpr.data import MultiCPRDataset
from fletching.training import TrainingFolder, run_trainer

__all__ = ["pretrain_on_passages"]


def pretrain_on_passages(
    dataset: MultiCPRDataset,
    output_dir: str | Path,
    *,
    base: str = BASE,
    epochs: float = 3.0,
    learning_rate: float = 5e-5,
    batch_size: int = 32,
    max_tokens: int = 256,
    save_steps: int = 5000,
    resume: bool = False,
    seed: int = 2021,
) -> str:
    """Continue the masked language modelling of a BERT on the passages of a domain.

    Rows "DPR-2" of the paper's table start from such a model. What it was trained with is not known to us:
    apart from the 15 % of masked tokens, which is BERT's own, the settings here are ours. The passages stay
    on disk.

    Args:
        dataset: Its passages are read; queries and judgements are not.
        output_dir: Where the model goes; give it to ``MultiCPRRecipe`` as ``base``. Checkpoints go to
            ``checkpoints`` in it.
        base: A BERT with its head for masked words, folder or hub id.
        epochs: Passes over the passages.
        learning_rate: Peak, reached after a tenth of the steps, then linear decay.
        batch_size: Passages of one step.
        max_tokens: Of a passage; batches are padded to their longest.
        save_steps: Steps between checkpoints.
        resume: Go on from the last checkpoint there.
        seed: Of the order and of the masks.

    Returns:
        ``output_dir`` as a string.

    Raises:
        ArgumentError: If the run to go on with was begun otherwise.
        DataError: If the passages are missing or malformed.
        MissingExtraError: If the ``train`` extra is not installed.
    """
    folder = TrainingFolder(output_dir, resume=resume)
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    rows = _PassageRows(dataset, tokenizer, max_tokens)
    plan = {
        "passages": len(rows),
        "base": base,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "max_tokens": max_tokens,
        "seed": seed,
    }
    folder.keep_plan("pretrain_on_passages", plan)
    try:
        arguments = TrainingArguments(
            **folder.build_arguments(seed=seed, save_steps=save_steps),
            num_train_epochs=epochs,
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=0.1,
            weight_decay=0.01,
            fp16=torch.cuda.is_available(),
        )
    except ImportError as error:  # transformers asks for accelerate here
        raise missing_extra("pretrain_on_passages", "accelerate", "train") from error
    model = AutoModelForMaskedLM.from_pretrained(base, trust_remote_code=False)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
    )
    run_trainer(trainer, folder)
    folder.save(model)
    folder.save(tokenizer)
    return str(folder.output)


class _PassageRows(Dataset[dict[str, Any]]):
    """Passages in lower case, tokenized when they are asked for."""

    def __init__(self, dataset: MultiCPRDataset, tokenizer: Any, max_tokens: int) -> None:
        self.corpus = dataset.corpus
        self.ids = list(self.corpus)
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: int) -> dict[str, Any]:
        text = self.corpus[self.ids[place]].lower()  # as the dual encoder reads them
        row = self.tokenizer(text, truncation=True, max_length=self.max_tokens)
        return {"input_ids": row["input_ids"], "attention_mask": row["attention_mask"]}
