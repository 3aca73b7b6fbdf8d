"""Tiny checkpoints and definitions, which the tests of this folder share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from tokenizers.decoders import ByteLevel
from transformers import AddedToken, PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

from fletching.methods.defsent_plus import DefinitionSet
from fletching.testing import save_tiny_bert
from fletching.testing.tiny import HIDDEN_SIZE

PAIRS = (
    ("bow", "a weapon of wood and string"),
    ("bow", "the point of a ship"),
    ("full draw", "the string at the archer"),
    ("arrow", "a shaft with a point and feathers"),
    ("goose", "what feathers are from"),
    ("nock", "the end of an arrow in the string"),
)
"""Six definitions of five entries, one of two words."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads, by far where other tests run beside them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT of transformers, without any file of sentence-transformers."""
    return save_tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A RoBERTa with its byte-level tokenizer, whose mask takes the space on its left along."""
    folder = tmp_path_factory.mktemp("roberta")
    tokenizer = build_roberta_tokenizer()
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=2 * HIDDEN_SIZE,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=98,
        initializer_range=0.3,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        RobertaForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Save a BERT as DefSent+ is published: in a folder of that name, without a tokenizer."""

    def save(name: str, *, tokenizer: bool = False, head: str = "backbone") -> str:
        folder = tmp_path_factory.mktemp("published") / name
        save_tiny_bert(folder, head=head)
        for file in () if tokenizer else TOKENIZER_FILES:
            (folder / file).unlink(missing_ok=True)
        return str(folder)

    return save


@pytest.fixture(scope="session")
def definitions() -> DefinitionSet:
    """Some definitions around archery."""
    return DefinitionSet.from_pairs(PAIRS)


def build_roberta_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer as RoBERTa has it: byte-level BPE, ``<s>`` and ``</s>``, a mask with ``lstrip``."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=special[:4],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = ['This sentence : "The archer draws the bow." means wood . ', 'Why is it "." means ...?'] * 4
    trained.train_from_iterator(texts, trainer)
    trained.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(
                single="<s> $A </s>", special_tokens=[(name, special.index(name)) for name in ("<s>", "</s>")]
            ),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=trained,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
        model_max_length=96,
        model_input_names=["input_ids", "attention_mask"],
    )


class EchoModule(Module):
    """Reads hidden states from its input: ``"1,1 2,0"`` is two tokens of width two."""

    width = 2
    training_seen = False

    def preprocess(self, inputs: Any, prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        rows = [
            torch.tensor([[float(x) for x in token.split(",")] for token in text.split()]) for text in inputs
        ]
        states = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=99.0)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True)
        return {"input_ids": mask.long(), "attention_mask": mask.long(), "states": states, "modality": "text"}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        self.training_seen = self.training_seen or self.training
        features["token_embeddings"] = features["states"]
        return features

    def get_embedding_dimension(self) -> int:
        return self.width

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        (Path(output_path) / "config.json").write_text(json.dumps({}))


@pytest.fixture
def echo() -> SentenceTransformer:
    """A model whose texts are their hidden states."""
    return SentenceTransformer(modules=[EchoModule(), Pooling(2, "mean")], device="cpu")
