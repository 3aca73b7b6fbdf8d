"""The training loss of KaLM-Embedding-V2."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses import CachedLossMixin, has_static_embedding_input
from sentence_transformers.base.losses.merged_forward import embed_columns
from sentence_transformers.util import all_gather_with_grad, get_rank, get_world_size
from torch import Tensor, nn

from fletching.errors import FidelityWarning, bad_argument, bad_shape
from fletching.methods.kalm.config import KaLMLossOptions, MixingOptions, check_number
from fletching.methods.kalm.functional import (
    CandidatePool,
    MixDraws,
    compute_distillation,
    compute_focal_weights,
    compute_gaps,
    compute_row_losses,
    draw_mixes,
    mix_lists,
    mix_pairs,
    normalize_vectors,
    score_candidates,
)
from fletching.models.inputs import check_count, check_positive

__all__ = ["KaLMLoss"]

logger = logging.getLogger(__name__)

_OWNER = "KaLMLoss"


class KaLMLoss(CachedLossMixin, nn.Module):
    """Contrastive loss with focal weights, mixed hard negatives, Matryoshka dimensions and distillation.

    Implements ``L = sum over dims of c_dim * (mean_i w_i l_i + distillation_weight * mean_i KL_i)`` of
    KaLM-Embedding-V2 (arXiv 2506.20923), see :mod:`fletching.methods.kalm.functional` for the parts. The
    authors' published code has InfoNCE and Matryoshka; focal weights, mixing and distillation are built from
    descriptions of the paper. What those leave open is an option, its default marked in ``config.py``.

    Args:
        model: The ``SentenceTransformer`` to train.
        temperature: tau, divides the cosines; > 0. Reference code: 0.01.
        gamma: Exponent of the focal weight, >= 0; 0 is plain InfoNCE. Paper: 0.5.
        mixing: What is mixed: names as in ``("pair", "list")``, ``()`` for nothing, or
            :class:`MixingOptions` for how many and who sees them. Paper: both.
        beta: ``lam ~ Beta(beta, beta)`` of the pair-wise mixes; > 0. Paper: 2.
        matryoshka: Dimensions and their weights, ``{896: 1.0, 512: 0.3, ...}``, or dimensions alone, each of
            weight 1; ``None`` trains the whole vector only.
        mini_batch_size: Rows that are embedded at once, >= 1, with gradient caching: loss and gradients are
            those of the whole batch, memory holds the activations of so many rows, and each row is embedded
            twice. ``None`` embeds everything at once.
        options: What is seldom changed; ``None`` takes the defaults of :class:`KaLMLossOptions`.

    Raises:
        ArgumentError: If an argument is outside its domain.

    Inputs:
        +---------------------------------------------------+------------------------------------------------+
        | Columns of texts                                  | Labels                                         |
        +===================================================+================================================+
        | ``(query, positive)``                             | none                                           |
        +---------------------------------------------------+------------------------------------------------+
        | ``(query, positive, negative_1, ..., negative_M)``| none; with ``distillation_weight`` > 0 the     |
        |                                                   | teacher's scores of positive and negatives,    |
        |                                                   | ``(B, 1 + M)``                                 |
        +---------------------------------------------------+------------------------------------------------+

        Mixing needs M >= 2; with fewer negatives it is left out, after one warning. In evaluation mode
        (``model.eval()``) nothing is mixed, so that the loss is the same each time.

    Relations:
        - ``MultipleNegativesRankingLoss(model, scale=1 / temperature)`` is equal with ``gamma=0`` and
          ``mixing=()``. Its ``hardness_mode`` is something else: a penalty inside the softmax.
        - ``DistillKLDivLoss(similarity_fct=pairwise_cos_sim)`` is the distillation part times the square of
          the student's temperature.
        - ``MatryoshkaLoss`` around a loss with ``mixing=()`` equals ``matryoshka=``. Around a loss that mixes
          it does not: it calls the loss for each dimension, and each call mixes other negatives.

    Pitfalls:
        - A document that is relevant to two queries of a batch is a negative of both. Use
          ``BatchSamplers.NO_DUPLICATES``, and beware of batches from one class of a classification set.
        - A list-wise mix may be nearer to the query than the positive is; that is meant.
        - A row whose query stands alone, without negatives or other rows, has the loss 0 and no gradient.
        - The mixes are drawn from torch's global generator, which the trainer writes into its checkpoints: a
          run that was killed and goes on draws what it would have drawn. ``KaLMLossOptions(seed=...)`` has a
          stream of its own instead, whose step counter is in the ``state_dict()`` of the loss, and which you
          must save yourself.
        - Sums are float32 (float64 for a float64 model) whatever the model computes in. An embedding that
          is infinite already, as after an overflow in float16, gives NaN, on which a gradient scaler skips
          the step; a zero vector has the cosine 0 to everything and gets no gradient.
    """

    mixing_step: Tensor

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        temperature: float = 0.01,
        gamma: float = 0.5,
        mixing: Sequence[str] | MixingOptions = ("pair", "list"),
        beta: float = 2.0,
        matryoshka: Mapping[int, float] | Sequence[int] | None = None,
        mini_batch_size: int | None = None,
        options: KaLMLossOptions | None = None,
    ) -> None:
        super().__init__()
        check_number(_OWNER, "temperature", temperature)
        check_number(_OWNER, "gamma", gamma, zero=True)
        check_number(_OWNER, "beta", beta)
        check_count(_OWNER, "mini_batch_size", mini_batch_size)
        if mini_batch_size and isinstance(model, SentenceTransformer) and has_static_embedding_input(model):
            domain = "None for a model of static embeddings, whose input cannot be cut into rows"
            raise bad_argument(_OWNER, "mini_batch_size", domain, mini_batch_size)
        self.model = model
        self.temperature = temperature
        self.gamma = gamma
        self.mixing = mixing if isinstance(mixing, MixingOptions) else MixingOptions(kinds=mixing)
        self.beta = beta
        self.matryoshka = _read_dimensions(matryoshka, model)
        self.mini_batch_size = mini_batch_size  # type: ignore[assignment]
        self.uses_gradient_cache = mini_batch_size is not None
        self.options = options or KaLMLossOptions()
        self.register_buffer("mixing_step", torch.zeros((), dtype=torch.int64))
        self._warned = False

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """Compute the loss of a batch.

        Args:
            sentence_features: One dict of tokenised texts for each column.
            labels: The teacher's scores when distillation is on, else ``None``.

        Returns:
            A scalar, float32 (float64 for a float64 model).

        Raises:
            ArgumentError: If there are fewer than two columns, or labels that do not fit.
        """
        features = list(sentence_features)
        self._check_n_columns(len(features))
        if self.uses_gradient_cache:
            return self.forward_cached(features, labels)
        return self.compute_loss_from_embeddings(embed_columns(self.model, features), labels)

    def compute_loss_from_embeddings(
        self, embeddings: Sequence[Tensor], labels: Tensor | None = None, *, draws: MixDraws | None = None
    ) -> Tensor:
        """Compute the loss of columns that are embedded already.

        Args:
            embeddings: One tensor for each column, shape ``(B, D)``, normalised or not.
            labels: The teacher's scores when distillation is on, else ``None``.
            draws: What to mix; ``None`` draws it, as training does.

        Returns:
            A scalar, float32 (float64 for float64 embeddings).

        Raises:
            ArgumentError: If there are fewer than two columns, or columns or labels that do not fit.
        """
        return self._compute(embeddings, labels, draws=draws)

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """Compute the loss from embedded mini-batches: the step of gradient caching that is ours.

        Args:
            reps: The mini-batches of each column.
            labels: The teacher's scores when distillation is on, else ``None``.
            with_backward: Whether to send gradients to the mini-batches and return the loss detached.

        Returns:
            A scalar, float32 (float64 for float64 embeddings).

        Raises:
            ArgumentError: If columns or labels do not fit.
        """
        return self._compute([torch.cat(parts) for parts in reps], labels, with_backward=with_backward)

    def _compute(
        self,
        embeddings: Sequence[Tensor],
        labels: Tensor | None,
        *,
        draws: MixDraws | None = None,
        with_backward: bool = False,
    ) -> Tensor:
        self._check_n_columns(len(embeddings))
        shape = (len(embeddings[0]), embeddings[0].shape[-1])
        for index, column in enumerate(embeddings):
            if column.shape != shape:
                raise bad_shape(_OWNER, f"embeddings[{index}]", "B, D", shape, column.shape)
        with torch.autocast(embeddings[0].device.type, enabled=False):
            columns = [column.to(torch.promote_types(column.dtype, torch.float32)) for column in embeddings]
            queries, documents = columns[0], torch.stack(columns[1:], dim=1)
            teacher_scores = self._read_labels(labels, documents)
            if draws is None:
                draws = self._draw_mixes(documents)
            if draws is not None:
                draws = draws._replace(shares=draws.shares.to(queries.dtype))  # no float64 on every device
                draws = MixDraws(*(part.to(queries.device) for part in draws))
            score = self._backpropagate_chunks if with_backward else self._score_chunks
            loss = queries.new_zeros(())
            for dim, weight in self._list_dimensions(queries.shape[1]).items():
                pool = self._build_pool(queries[:, :dim], documents[:, :, :dim], draws)
                if self.options.reduction == "mean":
                    weight = weight / len(queries)
                loss = loss + sum(score(pool, teacher_scores, weight))
        return loss

    def _draw_mixes(self, documents: Tensor) -> MixDraws | None:
        """Draw what this step mixes; ``None`` for nothing. One draw serves all dimensions."""
        n_rows, n_documents, _ = documents.shape
        if not self.mixing.kinds or not self.model.training:
            return None
        if n_documents < 3:
            self._warn_of_few_negatives(n_documents - 1)
            return None
        if self.options.seed is None:
            state = [int(torch.randint(2**63 - 1, ()))]
        else:
            state = [self.options.seed, int(self.mixing_step)]
            self.mixing_step += 1
        return draw_mixes(
            np.random.default_rng([*state, get_rank()]),
            n_rows=n_rows,
            n_negatives=n_documents - 1,
            n_pairs=self.mixing.n_pairs if "pair" in self.mixing.kinds else 0,
            n_lists=self.mixing.n_lists if "list" in self.mixing.kinds else 0,
            beta=self.beta,
        )

    def _warn_of_few_negatives(self, n_negatives: int) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{_OWNER}: mixing needs two hard negatives of each query, and there "
                f"{'is 1' if n_negatives == 1 else 'are none'}: nothing is mixed. "
                "Pass mixing=() to say so.",
                FidelityWarning,
                stacklevel=2,
            )

    def _build_pool(self, queries: Tensor, documents: Tensor, draws: MixDraws | None) -> CandidatePool:
        """Normalise truncated vectors, mix the negatives, and add what other devices have."""
        queries, documents = normalize_vectors(queries), normalize_vectors(documents)
        parts = [queries, documents]
        if draws is not None:
            temperature = self.mixing.list_temperature or self.temperature
            negatives = documents[:, 1:]
            pairs = mix_pairs(negatives, draws)
            lists = mix_lists(queries, negatives, draws, temperature=temperature)
            mixes = torch.cat([pairs, lists], dim=1)
            parts.append(mixes if self.mixing.gradient else mixes.detach())
        if self.options.gather_across_devices:
            parts = [all_gather_with_grad(part) for part in parts]
        return CandidatePool(*parts)

    def _score_chunks(
        self, pool: CandidatePool, teacher_scores: Tensor | None, weight: float
    ) -> Iterator[Tensor]:
        """Yield the weighted loss of this device's rows, a few rows at a time when gradients are cached."""
        n_rows, start = len(pool.queries), 0
        if self.options.gather_across_devices:
            n_rows //= get_world_size()
            start = get_rank() * n_rows
        rows = torch.arange(start, start + n_rows, device=pool.queries.device)
        step = self.mini_batch_size or n_rows
        for begin in range(0, n_rows, step):
            chunk = slice(begin, begin + step)
            chunk_scores = None if teacher_scores is None else teacher_scores[chunk]
            yield weight * self._score_rows(pool, rows[chunk], chunk_scores).sum()

    def _backpropagate_chunks(
        self, pool: CandidatePool, teacher_scores: Tensor | None, weight: float
    ) -> Iterator[Tensor]:
        """Yield the same losses, detached, and send gradients to what the pool was made from."""
        parts = [part for part in pool if part is not None]
        leaves = [part.detach().requires_grad_() for part in parts]
        for loss in self._score_chunks(CandidatePool(*leaves), teacher_scores, weight):
            loss.backward()
            yield loss.detach()
        pairs = [(part, leaf.grad) for part, leaf in zip(parts, leaves, strict=True) if part.requires_grad]
        torch.autograd.backward([part for part, _ in pairs], [gradient for _, gradient in pairs])

    def _score_rows(self, pool: CandidatePool, rows: Tensor, teacher_scores: Tensor | None) -> Tensor:
        """Compute ``w_i l_i + distillation_weight * KL_i`` of some rows."""
        options = self.options
        cosines = score_candidates(
            pool, rows, visibility=self.mixing.visibility, directions=options.directions
        )
        gaps = compute_gaps(cosines / self.temperature, rows * pool.documents.shape[1])
        weights = compute_focal_weights(gaps, gamma=self.gamma, detach=options.detach_weight)
        losses = weights * compute_row_losses(gaps)
        if teacher_scores is None:
            return losses
        student = (pool.queries[rows, None] * pool.documents[rows]).sum(dim=-1)
        distillation = compute_distillation(
            student / (options.student_temperature or self.temperature),
            teacher_scores / (options.teacher_temperature or self.temperature),
        )
        return losses + options.distillation_weight * distillation

    def _list_dimensions(self, width: int) -> dict[int, float]:
        if self.matryoshka is None:
            return {width: 1.0}
        if max(self.matryoshka) > width:
            domain = f"dimensions of at most {width}, the width of the embeddings"
            raise bad_argument(_OWNER, "matryoshka", domain, tuple(self.matryoshka))
        return self.matryoshka

    def _check_n_columns(self, n_columns: int) -> None:
        if n_columns < 2:
            raise bad_argument(_OWNER, "columns", "two or more: query, positive, then negatives", n_columns)

    def _read_labels(self, labels: Tensor | None, documents: Tensor) -> Tensor | None:
        """Check the teacher's scores, and that there are some when they are needed."""
        n_rows, n_documents, _ = documents.shape
        if self.options.distillation_weight == 0:
            if labels is None:
                return None
            remedy = "Set KaLMLossOptions(distillation_weight=...), or drop the label column."
            raise bad_argument(
                _OWNER, "labels", "left out without distillation", f"shape {tuple(labels.shape)}", remedy
            )
        if n_documents < 2:
            domain = "of queries with one hard negative or more: one candidate has nothing to distil"
            raise bad_argument(_OWNER, "columns", domain, 1 + n_documents)
        if labels is None:
            raise bad_argument(_OWNER, "labels", "the teacher's scores, as distillation is on", None)
        if labels.shape != (n_rows, n_documents):
            raise bad_shape(_OWNER, "labels", "B, N", (n_rows, n_documents), labels.shape)
        scores = labels.detach().to(documents.device, documents.dtype)
        if bool((scores.isnan() | (scores == torch.inf)).any() | (scores == -torch.inf).all(dim=1).any()):
            domain = "scores without NaN or inf, and -inf only for some candidates of a row"
            raise bad_argument(_OWNER, "labels", domain, labels.tolist())
        return scores

    def get_config_dict(self) -> dict[str, Any]:
        """Return the parameters for the model card."""
        return {
            "temperature": self.temperature,
            "gamma": self.gamma,
            "mixing": asdict(self.mixing),
            "beta": self.beta,
            "matryoshka": self.matryoshka,
            "mini_batch_size": self.mini_batch_size,
            **asdict(self.options),
        }

    @property
    def citation(self) -> str:
        """BibTeX entry for the model card."""
        return (
            "@misc{zhao2025kalmembeddingv2,\n"
            "    title={KaLM-Embedding-V2: Superior Training Techniques and Data Inspire A Versatile "
            "Embedding Model},\n"
            "    author={Zhao and Hu and Shan and others},\n"
            "    year={2025},\n    eprint={2506.20923}\n}"
        )


def _read_dimensions(
    matryoshka: Mapping[int, float] | Sequence[int] | None, model: Any
) -> dict[int, float] | None:
    """Check the dimensions against each other and, where it tells, the model's width."""
    if matryoshka is None:
        return None
    weights = dict(matryoshka) if isinstance(matryoshka, Mapping) else dict.fromkeys(matryoshka, 1.0)
    if not weights or len(weights) < len(matryoshka):
        raise bad_argument(_OWNER, "matryoshka", "one or more different dimensions", matryoshka)
    for dim, weight in weights.items():
        check_positive(_OWNER, "matryoshka", dim)
        check_number(_OWNER, f"matryoshka[{dim}]", weight)
    width = model.get_embedding_dimension() if hasattr(model, "get_embedding_dimension") else None
    if width is not None and max(weights) > width:
        domain = f"dimensions of at most {width}, the width of the embeddings"
        raise bad_argument(_OWNER, "matryoshka", domain, tuple(weights))
    if width is not None and width not in weights:
        logger.warning("%s: the whole vector of %d dimensions is not in `matryoshka`.", _OWNER, width)
    return weights
