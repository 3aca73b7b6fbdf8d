"""BERT-CT: masked language modelling on the passages."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from fletching.methods.multi_cpr import MultiCPRDataset, pretrain_on_passages
from fletching.methods.multi_cpr.training import build_dual_encoder


def compute_masked_loss(folder: str, texts: list[str]) -> float:
    """Mask every fifth token, and return the loss of guessing it."""
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForMaskedLM.from_pretrained(folder).eval(),
    )
    features = tokenizer(texts, padding=True, return_tensors="pt")
    labels = torch.full_like(features["input_ids"], -100)
    labels[:, 2::5] = features["input_ids"][:, 2::5]
    labels[features["attention_mask"] == 0] = -100
    features["input_ids"][:, 2::5] = tokenizer.mask_token_id
    with torch.no_grad():
        return float(model(**features, labels=labels).loss)


def test_passages_become_easier_to_guess(root: Path, base: str, tmp_path: Path) -> None:
    dataset = MultiCPRDataset(root, "video", "dev").sample_corpus(20)
    texts = [text.lower() for text in dataset.corpus.values()]
    folder = pretrain_on_passages(
        dataset, tmp_path, base=base, epochs=6, learning_rate=1e-2, batch_size=10, max_tokens=48
    )
    assert compute_masked_loss(folder, texts) < compute_masked_loss(base, texts) - 1
    assert build_dual_encoder(folder, max_tokens=32).encode("长安").shape == (32,)
