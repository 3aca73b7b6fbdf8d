"""Pre-train a small decoder from plain text: resumable, measured on documents kept back, documented."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from fletching.errors import bad_argument, bad_choice, missing_extra
from fletching.methods.tiny_lm.data import FIELDS, read_documents
from fletching.methods.tiny_lm.tokenizer import pack_documents, train_tokenizer
from fletching.models.card import write_section
from fletching.progress import track
from fletching.training import TrainingFolder, describe_run, hash_file, main_process_first, run_trainer

logger = logging.getLogger(__name__)

__all__ = ["FAMILIES", "TinyLMRecipe", "measure_language_model"]

FAMILIES = ("llama", "qwen2", "qwen3")
"""Architectures that ``family`` may name."""

_TOKENS_FILE = "tokens.npz"


@dataclass(frozen=True)
class TinyLMRecipe:
    """Train a tokenizer and a language model from nothing; 10.6 million weights by default.

    The sizes are ours, chosen for a CPU; so is everything else that no comment attributes. One step of the
    default reads 2,048 tokens: while a model knows little, many small steps teach more than few large ones.
    The learning rate rises, stays, and falls over the last fifth of the steps.

    Args:
        train_data: Files of text, see ``fletching.methods.tiny_lm.data.read_documents``.
        fields: Fields of these files that hold text.
        family: Architecture: ``"llama"``, ``"qwen2"`` or ``"qwen3"``.
        vocab_size: Tokens of the tokenizer.
        hidden_size: Width.
        layers: Number of layers.
        heads: Attention heads.
        feed_forward_size: Inner width of the feed-forward layers.
        max_tokens: Longest input of the model. Positions past ``window_tokens`` are never trained.
        window_tokens: Tokens of a training row; documents are packed, so that a row may hold several.
        batch_size: Rows of a step.
        rows_at_once: Rows in memory at once; must divide ``batch_size``.
        max_steps: Steps; ``None`` reads everything once.
        learning_rate: The highest.
        weight_decay: Of AdamW.
        dev_every: One of so many documents is kept back to measure on.
        save_steps: Steps between checkpoints.
        seed: Of weights and order.
        synthetic: Whether to make up sentences instead of reading ``train_data``.

    Raises:
        ArgumentError: If a value is outside its domain.
    """

    train_data: tuple[str, ...] = ()
    fields: tuple[str, ...] = FIELDS
    family: str = "llama"
    vocab_size: int = 16_384
    hidden_size: int = 256
    layers: int = 8
    heads: int = 4
    feed_forward_size: int = 704  # 8/3 of the width, as in Llama, to the next multiple of 64
    max_tokens: int = 512
    window_tokens: int = 128
    batch_size: int = 16
    rows_at_once: int = 4
    max_steps: int | None = None
    learning_rate: float = 2e-3
    weight_decay: float = 0.1  # Llama
    dev_every: int = 500
    save_steps: int = 100
    seed: int = 0
    synthetic: bool = False

    def __post_init__(self) -> None:
        """Check every value."""
        owner = type(self).__name__
        if self.family not in FAMILIES:
            raise bad_choice(owner, "family", FAMILIES, self.family)
        for name in ("hidden_size", "layers", "heads", "feed_forward_size", "batch_size", "save_steps"):
            _check_whole(owner, name, getattr(self, name), 1)
        for name in ("max_tokens", "window_tokens", "dev_every"):
            _check_whole(owner, name, getattr(self, name), 2)
        if self.max_steps is not None:
            _check_whole(owner, "max_steps", self.max_steps, 1)
        if self.hidden_size % (2 * self.heads):
            domain = f"a multiple of twice the heads ({self.heads})"
            raise bad_argument(owner, "hidden_size", domain, self.hidden_size)
        if self.window_tokens > self.max_tokens:
            domain = f"at most max_tokens ({self.max_tokens})"
            raise bad_argument(owner, "window_tokens", domain, self.window_tokens)
        if self.rows_at_once < 1 or self.batch_size % self.rows_at_once:
            domain = f"a divisor of batch_size ({self.batch_size})"
            raise bad_argument(owner, "rows_at_once", domain, self.rows_at_once)

    @classmethod
    def smoke(cls) -> TinyLMRecipe:
        """A recipe that finishes in under a minute on a CPU, on sentences that it makes up."""
        return cls(
            vocab_size=384,
            hidden_size=32,
            layers=2,
            feed_forward_size=96,
            max_tokens=128,
            window_tokens=32,
            batch_size=16,
            rows_at_once=16,
            max_steps=60,
            dev_every=10,
            save_steps=30,
            synthetic=True,
        )

    def run(self, output_dir: str | Path, *, resume: bool = False) -> dict[str, Any]:
        """Train, measure and save.

        Args:
            output_dir: Where model and tokenizer go; checkpoints go to ``checkpoints`` in it.
            resume: Go on from the last checkpoint there; ends with the weights of a run that was never
                stopped.

        Returns:
            ``{"before": {...}, "after": {...}}``, what `measure_language_model` finds on the documents kept
            back.

        Raises:
            ArgumentError: If there is nothing to train on, or the run to go on with was begun otherwise.
            DataError: If a file is malformed.
            MissingExtraError: If the ``train`` extra is not installed.
        """
        if not self.synthetic and not self.train_data:
            raise bad_argument("TinyLMRecipe", "train_data", "at least one file of text", self.train_data)
        folder = TrainingFolder(output_dir, resume=resume)
        plan = describe_run(self, free=("save_steps",), train_data=self.train_data)
        folder.keep_plan("TinyLMRecipe", plan)
        with main_process_first():  # the others find what the first one has left
            tokenizer, train, dev = self._prepare(folder)
        rows = _Windows(train, self.window_tokens)
        steps = self.max_steps or math.ceil(len(rows) / self.batch_size)
        if len(rows) < self.batch_size:
            domain = f"text of at least {self.batch_size * self.window_tokens} tokens, one batch"
            raise bad_argument("TinyLMRecipe", "train_data", domain, f"{len(train)} tokens")
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model = AutoModelForCausalLM.from_config(self._build_config(tokenizer))
        before = folder.keep_before(lambda: measure_language_model(model, tokenizer, dev))
        trainer = Trainer(model=model, args=self._build_arguments(folder, steps), train_dataset=rows)
        run_trainer(trainer, folder)
        results = {"before": before, "after": measure_language_model(model, tokenizer, dev)}
        folder.save(model.eval())
        folder.save(tokenizer)
        facts = {"train_tokens": len(train), "steps": steps, "read_tokens": steps * self._tokens_per_step}
        folder.write_record(self, files=self.train_data, results=results, **facts)
        with main_process_first() as is_main:
            if is_main:
                write_section(folder.output, "training", self._describe(model, results, facts))
        return results

    @property
    def _tokens_per_step(self) -> int:
        return self.batch_size * self.window_tokens

    def _prepare(
        self, folder: TrainingFolder
    ) -> tuple[PreTrainedTokenizerFast, NDArray[np.int32], NDArray[np.int32]]:
        """Train the tokenizer and pack the documents, or take what a run before has left."""
        path = folder.checkpoints / _TOKENS_FILE
        fingerprint = self._fingerprint()
        if path.is_file():
            with np.load(path) as saved:
                if str(saved["fingerprint"]) == fingerprint:
                    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder.checkpoints / "tokenizer")
                    return tokenizer, saved["train"], saved["dev"]
        logger.info("Training the tokenizer.")
        tokenizer = train_tokenizer(
            track(self._read(dev=False), desc="Reading"), self.vocab_size, max_tokens=self.max_tokens
        )
        logger.info("Tokenizing.")
        train = pack_documents(tokenizer, track(self._read(dev=False), desc="Tokenizing"))
        dev = pack_documents(tokenizer, self._read(dev=True))
        if not len(dev):
            raise bad_argument("TinyLMRecipe", "dev_every", "at most the number of documents", self.dev_every)
        logger.info("%d tokens to train on, %d kept back.", len(train), len(dev))
        tokenizer.save_pretrained(folder.checkpoints / "tokenizer")
        part = path.with_name(f"part.{path.name}")  # savez wants the suffix
        np.savez(part, train=train, dev=dev, fingerprint=fingerprint)
        part.replace(path)
        return tokenizer, train, dev

    def _read(self, *, dev: bool) -> Iterator[str]:
        """Read the documents to train on, or those that are kept back: the last of each ``dev_every``."""
        documents = (
            _invent(self.seed) if self.synthetic else read_documents(*self.train_data, fields=self.fields)
        )
        for number, document in enumerate(documents, start=1):
            if (number % self.dev_every == 0) == dev:
                yield document

    def _fingerprint(self) -> str:
        """Identify what the tokens depend on."""
        names = ("fields", "vocab_size", "max_tokens", "dev_every", "seed", "synthetic")
        settings = {name: asdict(self)[name] for name in names}
        described = json.dumps([settings, [hash_file(path) for path in self.train_data]])
        return sha256(described.encode()).hexdigest()

    def _build_config(self, tokenizer: Any) -> Any:
        return AutoConfig.for_model(
            self.family,
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            intermediate_size=self.feed_forward_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            head_dim=self.hidden_size // self.heads,
            max_position_embeddings=self.max_tokens,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )

    def _build_arguments(self, folder: TrainingFolder, steps: int) -> TrainingArguments:
        try:
            return TrainingArguments(
                **folder.build_arguments(seed=self.seed, save_steps=self.save_steps),
                max_steps=steps,
                per_device_train_batch_size=self.rows_at_once,
                gradient_accumulation_steps=self.batch_size // self.rows_at_once,
                learning_rate=self.learning_rate,
                lr_scheduler_type="warmup_stable_decay",
                lr_scheduler_kwargs={"num_decay_steps": steps // 5},
                warmup_steps=max(steps // 50, 1),
                weight_decay=self.weight_decay,
                adam_beta2=0.95,  # Llama
                bf16=torch.cuda.is_available(),
            )
        except ImportError as error:  # transformers asks for accelerate here
            raise missing_extra("TinyLMRecipe", "accelerate", "train") from error

    def _describe(self, model: PreTrainedModel, results: dict[str, Any], facts: dict[str, int]) -> str:
        """Write the model card."""
        weights = sum(parameter.numel() for parameter in model.parameters())
        names = ", ".join(sorted(Path(path).name for path in self.train_data)) or "made-up sentences"
        after = results["after"]
        return (
            f"# A tiny language model\n\n"
            f"A `{type(model).__name__}` of {weights:,} weights, trained by `fletching train tiny_lm` on "
            f"{facts['read_tokens']:,} tokens of {names}. Seed {self.seed}.\n\n"
            f"On documents kept back: perplexity {after['dev_perplexity']:.1f} a token, "
            f"{after['dev_bits_per_byte']:.3f} bits a byte "
            f"(untrained: {results['before']['dev_bits_per_byte']:.3f}).\n\n"
            "It is made for tests, teaching and experiments; what it writes is not to be relied on.\n"
        )


def measure_language_model(model: Any, tokenizer: Any, tokens: NDArray[np.int32]) -> dict[str, float]:
    """Measure how well a model predicts a row of tokens, cut into windows.

    Args:
        model: A causal language model; each window is as long as its longest input, at most 128 tokens.
        tokenizer: Its tokenizer, to count bytes.
        tokens: What ``pack_documents`` returns.

    Returns:
        ``dev_perplexity``, the exponential of the mean negative log-likelihood of a token; and
        ``dev_bits_per_byte``, which does not depend on the tokenizer. The first token of a window is given.
    """
    width = min(model.config.max_position_embeddings, 128)
    windows = [torch.tensor(tokens[start : start + width]) for start in range(0, len(tokens), width)]
    total, n_tokens, n_bytes = 0.0, 0, 0
    training = model.training
    model.eval()
    with torch.inference_mode():
        for window in track(windows, desc="Measuring"):
            if len(window) < 2:
                continue
            ids = window.long().to(model.device)
            logits = model(input_ids=ids[None, :-1]).logits[0].float()
            total += float(cross_entropy(logits, ids[1:], reduction="sum"))
            n_tokens += len(ids) - 1
            n_bytes += len(tokenizer.decode(ids[1:], skip_special_tokens=True).encode())
    model.train(training)
    return {
        "dev_perplexity": math.exp(total / n_tokens),
        "dev_bits_per_byte": total / math.log(2) / max(n_bytes, 1),
    }


class _Windows(Dataset[dict[str, Any]]):
    """A long row of tokens, cut into training rows."""

    def __init__(self, tokens: NDArray[np.int32], width: int) -> None:
        self.rows = torch.from_numpy(tokens[: len(tokens) // width * width].reshape(-1, width))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = self.rows[index].long()
        return {"input_ids": ids, "labels": ids}


def _check_whole(owner: str, name: str, value: Any, lowest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise bad_argument(owner, name, f"an integer of at least {lowest}", value)


def _invent(seed: int) -> Iterator[str]:
    """Make up sentences with some grammar in them."""
    random = Random(seed)
    nouns = ("archer", "arrow", "bow", "feather", "goose", "shaft", "string", "target")
    for _ in range(1500):
        first, second = random.sample(nouns, 2)
        verb = random.choice(("sees", "finds", "breaks", "keeps"))
        colour = random.choice(("red", "grey", "white"))
        yield f"The {colour} {first} {verb} the {second}, and the {second} is no longer {colour}."
