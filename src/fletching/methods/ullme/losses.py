"""The loss of ULLME and GRL, every term of it, for the sentence-transformers trainer."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from sentence_transformers.sentence_transformer.losses.matryoshka import CachedLossDecorator, ForwardDecorator
from sentence_transformers.util import all_gather, all_gather_with_grad
from torch import Tensor, nn

from fletching.errors import ArgumentError, FidelityWarning, bad_argument, bad_choice
from fletching.methods.ullme.caching import CachedColumnsMixin, attach_gradient, without_dropout
from fletching.methods.ullme.config import EMBEDDING_ADAPTER, GENERATION_ADAPTER
from fletching.methods.ullme.functional import (
    build_pair_masks,
    compute_kl,
    compute_ntxent,
    compute_preference_loss,
    compute_sft_loss,
    compute_similarities,
    compute_supcon,
    mine_pairs,
    sum_passages,
)
from fletching.methods.ullme.settings import GRLSettings, is_count

__all__ = ["GRLLoss"]

logger = logging.getLogger(__name__)

_OWNER = "GRLLoss"

Features = dict[str, Any]


@dataclass
class _Step:
    """What one step knows besides the values of its columns."""

    n_rows: int
    n_candidates: int
    trained: list[int]  # candidates whose likelihood has a gradient
    n_scored: int = 0  # columns of them, 0 or 1
    counts: Tensor | None = None  # (B, N), tokens of each passage
    fixed: Tensor | None = None  # (B, N), likelihoods of all others; 0 where trained
    reference: Tensor | None = None  # (B, 2), of the first positive and the first negative


class GRLLoss(CachedColumnsMixin, nn.Module):
    """Contrastive learning, preference learning and their alignment: GRL (arXiv 2408.03402), term by term.

    ``L = contrastive_weight * L_CL + kl_weight * L_KL + gen_weight * L_gen``, see `functional.py` for each.
    With ``kl_weight=0, gen_weight=0`` it is the contrastive loss alone; with the same text as anchor and
    positive, and dropout, that is SimCSE; with ``contrastive_weight=0, kl_weight=0`` it is supervised
    fine-tuning or preference learning of the generator.

    Differs from the reference codes (hieum98/GenC, nlp-uoregon/ullme): every term has a gradient, for every
    mini-batch; log-likelihoods are those of the passage's tokens alone; a mean is one over the whole batch,
    whatever the mini-batch; a KL that is not finite is never taken for 0.

    Args:
        model: An ``LLMEmbedder``; for the contrastive term alone any ``SentenceTransformer``.
        settings: Every choice; ``None`` takes the defaults, those of GenC.
        mini_batch_size: Rows of a column that run at once, >= 1, by gradient caching: memory is that of one
            mini-batch, loss and gradient are those of the whole batch. ``None`` runs all at once.
        **changes: Fields of `GRLSettings`, instead of those of ``settings``: ``kl_weight=0``.

    Raises:
        ArgumentError: If a value is outside its domain, no term has a weight, the model cannot score
            passages, or the reference has no adapter to switch off.

    Inputs:
        Columns ``anchor, positive, negative_1, ..., negative_n``, with ``n_positives > 1`` that many
        positives, and the rows of `ULLMECollator` where ``kl_weight`` or ``gen_weight`` is not 0. Labels are
        optional, one integer >= 0 a row: rows with the same one are positives of each other. Without them
        each row is its own.

    Relations:
        With one positive, no negatives, no miner and the cosine, the contrastive term is
        ``MultipleNegativesRankingLoss(model, scale=1 / temperature, directions=("query_to_doc",
        "query_to_query", "doc_to_query", "doc_to_doc"))`` averaged over queries and passages. The KL term is
        ``DistillKLDivLoss`` over the square of its temperature, with a teacher at temperature 1.

    Pitfalls:
        - All rows are anchors: a text that occurs twice in a batch is its own negative. Use
          ``batch_sampler="no_duplicates"``.
        - A batch of one without negatives has nothing to compare: its contrastive term is 0, with a warning.
        - The miner may keep no pair at all when every positive is far ahead; the term is then 0.
        - Values are logged part by part; each is multiplied by its weight.
        - ``MatryoshkaLoss`` takes the contrastive term alone, with ``mini_batch_size``; the rest is refused.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: GRLSettings | None = None,
        *,
        mini_batch_size: int | None = None,
        **changes: Any,
    ) -> None:
        super().__init__()
        try:
            self.settings = replace(settings or GRLSettings(), **changes)
        except TypeError as error:
            known = GRLSettings.__dataclass_fields__
            unknown = next((name for name in changes if name not in known), None)
            if unknown is None:
                raise
            raise bad_choice(_OWNER, "a setting", known, unknown) from error
        if mini_batch_size is not None and not is_count(mini_batch_size):
            raise bad_argument(_OWNER, "mini_batch_size", "a positive integer or None", mini_batch_size)
        chosen = self.settings
        if not (chosen.uses_embeddings or chosen.generates):
            raise bad_argument(_OWNER, "contrastive_weight", "positive where no other term is on", 0)
        self.model: Any = model
        self.mini_batch_size = mini_batch_size
        self.skipped_kl_rows = 0
        self._now: _Step | None = None
        self._parts: dict[str, Tensor] = {}
        if chosen.reads_likelihoods and not hasattr(self._encoder, "score_tokens"):
            remedy = "Or set kl_weight=0 and gen_weight=0"
            raise bad_argument(
                _OWNER, "model", "an LLMEmbedder, to score passages", type(model).__name__, remedy
            )
        with ExitStack() as stack:  # now, rather than in the first step
            if chosen.uses_reference:
                stack.enter_context(self._encoder.adapters_off())
            if chosen.two_adapters:
                for name in (GENERATION_ADAPTER, EMBEDDING_ADAPTER):
                    with self._encoder.use_adapter(name):
                        pass

    @property
    def uses_gradient_cache(self) -> bool:
        """Whether the backward pass runs the model anew; sentence-transformers asks."""
        return self.mini_batch_size is not None

    def forward(
        self, sentence_features: Iterable[Features], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the terms of a batch.

        Args:
            sentence_features: Features of the columns; those with ``labels`` in them are for the generator.
            labels: Which rows belong together, shape ``(B,)``; ``None``: none do.

        Returns:
            ``"contrastive"``, ``"kl"`` and ``"generation"``, each times its weight, where that is not 0. The
            trainer logs each and trains on the sum.
        """
        self._check_wrappers()
        everything = list(sentence_features)
        columns = [features for features in everything if "labels" not in features]
        generation = [features for features in everything if "labels" in features]
        step = self._begin(columns)
        trained = self._read_generation(step, generation) if self.settings.reads_likelihoods else []
        step.n_scored = len(trained)
        # embeddings last: several devices exchange gradients in the last run, which must reach every head
        read = [*trained, *(columns if self.settings.uses_embeddings else [])]
        self._now = step
        try:
            total = self.compute_columns(read, labels)
            parts = self._parts
        finally:
            self._now, self._parts = None, {}
        first, *others = parts
        if not others:
            return {first: total}
        return {
            first: attach_gradient(parts[first], total),
            **{name: parts[name].detach() for name in others},
        }

    def run_column(self, features: Features) -> Tensor:
        """Embed rows, or sum the log-likelihoods of passages.

        Args:
            features: Of some rows of a column.

        Returns:
            Embeddings, shape ``(B, D)``; for generation rows sums, shape ``(B,)``.
        """
        outputs = self.model(features)
        if "labels" not in features:
            embeddings: Tensor = outputs.get("projected_embedding", outputs["sentence_embedding"])
            return embeddings
        return sum_passages(outputs["token_scores"], features["labels"])[0]

    def enter_column(self, features: Features) -> AbstractContextManager[Any]:
        """Activate the adapter that a column is for, where there are two.

        Args:
            features: Of the column.

        Returns:
            What activates it and goes back.
        """
        if not self.settings.two_adapters:
            return nullcontext()
        adapter = GENERATION_ADAPTER if "labels" in features else EMBEDDING_ADAPTER
        entered: AbstractContextManager[Any] = self._encoder.use_adapter(adapter)
        return entered

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """Compute the loss of the whole batch from the values of its columns; called while one is running.

        Args:
            reps: For each column, what ``run_column`` found of each mini-batch.
            labels: As for ``forward``.
            with_backward: Whether to take the gradient at once.

        Returns:
            The sum of the terms.
        """
        step, chosen = self._now, self.settings
        assert step is not None
        values = [torch.cat(parts) for parts in reps]
        with torch.autocast(values[0].device.type, enabled=False):
            scored, embeddings = values[: step.n_scored], values[step.n_scored :]
            parts = {}
            if chosen.contrastive_weight > 0:
                parts["contrastive"] = chosen.contrastive_weight * self._contrast(embeddings, labels)
            if chosen.reads_likelihoods:
                scores = self._merge_scores(step, scored)
                if chosen.kl_weight > 0:
                    parts["kl"] = chosen.kl_weight * self._align(step, embeddings, scores)
                if chosen.generates:
                    parts["generation"] = chosen.gen_weight * self._generate(step, scores)
            total = torch.stack(list(parts.values())).sum()
        self._parts = {name: value.detach() for name, value in parts.items()}
        if with_backward:
            total.backward()
        return total.detach() if with_backward else total

    def get_config_dict(self) -> dict[str, Any]:
        """Parameters for the model card."""
        return {**asdict(self.settings), "mini_batch_size": self.mini_batch_size}

    @property
    def citation(self) -> str:
        """BibTeX entry for the model card."""
        return (
            "@inproceedings{man2024ullme,\n"
            "    title={ULLME: A Unified Framework for Large Language Model Embeddings with "
            "Generation-Augmented Learning},\n"
            "    author={Man and Ngo and Dernoncourt and Nguyen},\n"
            "    booktitle={EMNLP: System Demonstrations},\n    year={2024},\n    eprint={2408.03402}\n}"
        )

    def _begin(self, columns: list[Features]) -> _Step:
        """Count rows and candidates."""
        if not columns:
            raise bad_argument(
                _OWNER, "sentence_features", "an anchor and its candidates", "no column of texts"
            )
        n_candidates = len(columns) - 1
        self.settings.check_candidates(_OWNER, n_candidates)
        return _Step(len(columns[0]["input_ids"]), n_candidates, self._choose_trained(n_candidates))

    def _choose_trained(self, n_candidates: int) -> list[int]:
        """List the candidates whose log-likelihood some term has a gradient for."""
        chosen = self.settings
        if chosen.kl_weight > 0 and not chosen.detach_generator:
            return list(range(n_candidates))
        trained = set()
        if chosen.generates and chosen.has_sft:
            trained |= set(range(chosen.n_positives))
        if chosen.generates and chosen.preference is not None:
            trained |= {0, chosen.n_positives}
        return sorted(trained)

    def _read_generation(self, step: _Step, generation: list[Features]) -> list[Features]:
        """Score what needs no gradient, and return the column that does."""
        if len(generation) != 1:
            remedy = "Hand the trainer data_collator=ULLMECollator(model)"
            raise bad_argument(
                _OWNER, "sentence_features", "with rows for the generator", f"{len(generation)}", remedy
            )
        (rows,) = generation
        shape = (step.n_rows, step.n_candidates)
        if len(rows["input_ids"]) != shape[0] * shape[1]:
            domain = f"{shape[0]} x {shape[1]} rows for the generator"
            raise bad_argument(_OWNER, "sentence_features", domain, len(rows["input_ids"]))
        step.counts = (rows["labels"] != -100).sum(dim=1).view(shape)
        if not step.counts.all():
            row, candidate = (step.counts == 0).nonzero()[0].tolist()
            domain = "passages with a token left"
            raise bad_argument(_OWNER, "sentence_features", domain, f"none in row {row}, passage {candidate}")
        others = [index for index in range(step.n_candidates) if index not in step.trained]
        if others and self.settings.kl_weight > 0:
            with self.enter_column(rows):
                scores = self.score_column(_take(rows, others, shape)).view(step.n_rows, len(others))
            step.fixed = scores.new_zeros(shape).index_copy(
                1, torch.tensor(others, device=scores.device), scores
            )
        if self.settings.uses_reference:
            pair = _take(rows, [0, self.settings.n_positives], shape)
            with self._encoder.adapters_off(), without_dropout(self._inner):
                step.reference = self.score_column(pair).view(step.n_rows, 2)
        return [_take(rows, step.trained, shape)] if step.trained else []

    def _merge_scores(self, step: _Step, trained: list[Tensor]) -> Tensor:
        """Lay the sums of log-likelihoods out as (B, N); 0 where nobody asked."""
        if not trained:
            assert step.fixed is not None
            return step.fixed
        values = trained[0].view(step.n_rows, len(step.trained))
        full = values.new_zeros(step.n_rows, step.n_candidates)
        if step.fixed is not None:
            full = full + step.fixed
        return full.index_copy(1, torch.tensor(step.trained, device=values.device), values)

    def _contrast(self, columns: list[Tensor], labels: Tensor | None) -> Tensor:
        """Compute the contrastive term over the rows of all devices."""
        chosen = self.settings
        embeddings, names, rows = _pool(columns, labels, n_positives=chosen.n_positives)
        positives, negatives = build_pair_masks(names, rows=None if chosen.cross_row_negatives else rows)
        if not (negatives.any(dim=1) & positives.any(dim=1)).any():
            warnings.warn(
                f"{_OWNER}: a batch holds no negative to tell its positives from; its contrastive term is 0. "
                "Use larger batches, columns of negatives, or dataloader_drop_last=True.",
                FidelityWarning,
                stacklevel=2,
            )
        scores = compute_similarities(embeddings, similarity=chosen.similarity)
        if chosen.miner_epsilon is not None:
            cosines = scores if chosen.similarity == "cosine" else compute_similarities(embeddings.detach())
            positives, negatives = mine_pairs(cosines, positives, negatives, epsilon=chosen.miner_epsilon)
        compute = compute_supcon if chosen.contrastive_loss == "supcon" else compute_ntxent
        return compute(scores / chosen.temperature, positives, negatives)

    def _align(self, step: _Step, columns: list[Tensor], sums: Tensor) -> Tensor:
        """Compute the mean KL over the queries for which it is finite."""
        chosen = self.settings
        assert step.counts is not None
        wide = [column.to(torch.promote_types(column.dtype, torch.float32)) for column in columns]
        query, *candidates = wide
        rep_scores = nn.functional.cosine_similarity(query[:, None], torch.stack(candidates, dim=1), dim=-1)
        gen_scores = sums / step.counts
        finite = rep_scores.isfinite().all(dim=1) & gen_scores.isfinite().all(dim=1)
        if not finite.all():
            self._note_nonfinite(finite)
            rep_scores, gen_scores = rep_scores[finite], gen_scores[finite]
        return compute_kl(
            rep_scores,
            gen_scores,
            temperature=chosen.kl_temperature,
            direction=chosen.kl_direction,
            detach_generator=chosen.detach_generator,
        ).mean()

    def _note_nonfinite(self, finite: Tensor) -> None:
        """Raise, or count and warn."""
        bad = (~finite).nonzero().flatten().tolist()
        if self.settings.nonfinite_kl == "raise" or len(bad) == len(finite):
            raise ArgumentError(
                f"{_OWNER}: the KL term must be finite; its scores are NaN or infinite in {len(bad)} of "
                f"{len(finite)} rows, the first is {bad[0]}. Lower the learning rate, or train in bf16."
            )
        if not self.skipped_kl_rows:
            warnings.warn(
                f"{_OWNER}: the KL term leaves out {len(bad)} of {len(finite)} rows whose scores are NaN or "
                "infinite; further ones are logged.",
                FidelityWarning,
                stacklevel=2,
            )
        self.skipped_kl_rows += len(bad)
        logger.warning("KL term: %d rows skipped, %d in all.", len(bad), self.skipped_kl_rows)

    def _generate(self, step: _Step, sums: Tensor) -> Tensor:
        """Compute the term that trains the generator by itself."""
        chosen = self.settings
        assert step.counts is not None
        loss = sums.new_zeros(())
        if chosen.has_sft:
            own = slice(chosen.n_positives)
            loss = loss + compute_sft_loss(sums[:, own].flatten(), step.counts[:, own])
        if chosen.preference is not None:
            pair = [0, chosen.n_positives]
            scores = sums[:, pair]
            if step.reference is not None:
                scores = scores - step.reference
            if chosen.preference == "ipo":
                scores = scores / step.counts[:, pair]
            loss = (
                loss
                + compute_preference_loss(
                    scores[:, 0],
                    scores[:, 1],
                    kind=chosen.preference,
                    beta=chosen.beta,
                    label_smoothing=chosen.label_smoothing,
                ).mean()
            )
        return loss

    def _check_wrappers(self) -> None:
        """Refuse what would take the gradient of another function, or keep devices apart."""
        is_cut = isinstance(self.calculate_loss, CachedLossDecorator)
        if is_cut and self.settings.reads_likelihoods:
            weights = self.settings.kl_weight, self.settings.gen_weight
            domain = "0 under MatryoshkaLoss, which would cut log-likelihoods as if they were embeddings"
            raise bad_argument(_OWNER, "kl_weight, gen_weight", domain, weights)
        if isinstance(getattr(self.model, "forward", None), ForwardDecorator):
            domain = "given under MatryoshkaLoss, which adds up numbers where this loss has named terms"
            raise bad_argument(_OWNER, "mini_batch_size", domain, self.mini_batch_size)
        if not (self.settings.two_adapters and torch.is_grad_enabled()):
            return
        recomputes = any(getattr(part, "gradient_checkpointing", False) for part in self._inner.modules())
        if recomputes and self.mini_batch_size is None:
            remedy = "Without, a layer would be computed again with the other adapter"
            raise bad_argument(
                _OWNER, "mini_batch_size", "given for two adapters with gradient checkpointing", None, remedy
            )
        if isinstance(self.model, nn.parallel.DistributedDataParallel) and self.mini_batch_size is not None:
            remedy = "The gradients of one adapter would not be averaged over devices"
            raise bad_argument(
                _OWNER,
                "mini_batch_size",
                "None for two adapters on several devices",
                self.mini_batch_size,
                remedy,
            )

    @property
    def _inner(self) -> Any:
        """The model itself, whatever the trainer wrapped it into."""
        model = getattr(self.model, "_orig_mod", self.model)
        return getattr(model, "module", model)

    @property
    def _encoder(self) -> Any:
        """The first module, which holds the language model."""
        return self._inner[0]


def _take(rows: Features, candidates: list[int], shape: tuple[int, int]) -> Features:
    """Pick some candidates of every query from rows that lie query by query."""
    taken = {}
    for name, value in rows.items():
        is_rows = isinstance(value, Tensor) and value.ndim and len(value) == shape[0] * shape[1]
        taken[name] = value.view(*shape, *value.shape[1:])[:, candidates].flatten(0, 1) if is_rows else value
    return taken


def _pool(columns: list[Tensor], labels: Tensor | None, *, n_positives: int) -> tuple[Tensor, Tensor, Tensor]:
    """Put all texts of all devices together.

    The gradient of a gathered tensor is the sum over the devices, each of which computes the same loss; their
    mean, which the trainer takes, is then the gradient of that loss. The reference codes keep the gradient of
    their own share and multiply the loss by the number of devices: the same gradient, another value.

    Returns:
        Embeddings ``(n, D)``; names ``(n,)``, equal where two texts belong together; rows ``(n,)``.
    """
    size, device = len(columns[0]), columns[0].device
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if distributed else 0
    rows = torch.arange(size, device=device) + rank * size  # no two devices share one
    if labels is None:
        own = rows
    elif labels.shape != (size,) or labels.is_floating_point() or (labels < 0).any():
        raise bad_argument(_OWNER, "labels", "one integer >= 0 a row", labels.tolist())
    else:
        own = labels.to(device)
    n_negatives = len(columns) - 1 - n_positives
    fresh = [-1 - (rows * n_negatives + index) for index in range(n_negatives)]  # below every label
    names = torch.cat([own] * (1 + n_positives) + fresh)
    embeddings, rows = torch.cat(columns), rows.repeat(len(columns))
    if distributed:
        embeddings, names, rows = all_gather_with_grad(embeddings), all_gather(names), all_gather(rows)
    return embeddings, names, rows
