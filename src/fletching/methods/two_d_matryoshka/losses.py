"""The training loss of 2DMSE and ESE."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.gradcache import uses_gradient_cache
from sentence_transformers.sentence_transformer import losses as stock_losses
from torch import Tensor, nn

from fletching.errors import bad_argument, bad_choice
from fletching.methods.two_d_matryoshka.batches import EmbeddedBatch, take_transformer, unwrap_model
from fletching.methods.two_d_matryoshka.functional import (
    compress_vectors,
    compute_distillation,
    compute_kl,
    list_dims,
    weigh_layer,
)
from fletching.methods.two_d_matryoshka.modules import measure_width
from fletching.models.inputs import check_positive
from fletching.nn import count_layers, find_final_norm

__all__ = ["OBJECTIVES", "WEIGHTINGS", "TwoDMatryoshkaLoss", "TwoDMatryoshkaLossOptions"]

OBJECTIVES = ("2dmse", "ese")
"""What ``objective`` may be."""

WEIGHTINGS = ("uniform", "legacy")
"""What ``weighting`` may be."""

FINAL_NORMS = ("auto", "none")
"""What ``final_norm`` may be."""

ESE_SIZE = 128  # reference code

_OWNER = "TwoDMatryoshkaLoss"
_OPTIONS = "TwoDMatryoshkaLossOptions"
_CHANGES_SIZES = "one that leaves layers and dimensions alone"
_REFUSED: dict[type[nn.Module], str] = {
    stock_losses.MatryoshkaLoss: _CHANGES_SIZES,
    stock_losses.AdaptiveLayerLoss: _CHANGES_SIZES,
    stock_losses.SoftmaxLoss: "one without a classifier, whose input has one width",
    stock_losses.DenoisingAutoEncoderLoss: "one without a decoder, whose input has one width",
    stock_losses.ContrastiveTensionLoss: "one of a single network",
    stock_losses.ContrastiveTensionLossInBatchNegatives: "one of a single network",
}


@dataclass(frozen=True)
class TwoDMatryoshkaLossOptions:
    """What is seldom changed about the loss.

    Args:
        weighting: Of 2DMSE: ``"uniform"``, or ``"legacy"``, a later revision of the reference code that no
            paper describes: the losses of the sampled layer n are divided by n, and the alignment is
            ``KL(T) * T * ln(2 + n)``.
        fixed_teacher: Of 2DMSE: a frozen ``SentenceTransformer`` of the same vocabulary and width that the
            sampled layer is aligned with instead of the last one; the states of the last layer are then
            aligned with its token states, too. It is moved to the device of the model.
        off_by_one: Of ESE: whether the earlier layers are those of the reference code, 0 (the output of the
            embeddings) to N - 2 with the weights ``1 / (1 + ln(1 + i))``, instead of the paper's 1 to N - 1.
        exact: Of ESE: whether to compress by an exact decomposition with settled signs, or by the randomised
            one of the reference code.
        final_norm: ``"auto"`` applies the norm behind the last layer to the states of earlier ones where the
            backbone has one, as a model of so many layers does; ``"none"`` trains the states as they are.
        seed: ``None`` draws layers and dimensions from torch's global generator, which the trainer saves and
            restores; an integer >= 0 gives the loss a stream of its own, with a step counter in
            ``state_dict()``, which is the same on all devices.

    Raises:
        ArgumentError: If an argument is outside its domain.
    """

    weighting: str = "uniform"  # reference code, first version
    fixed_teacher: SentenceTransformer | None = None
    off_by_one: bool = False  # paper v2; reference code: True
    exact: bool = True  # ours; reference code: False
    final_norm: str = "auto"  # ours: the paper's backbones have none
    seed: int | None = None  # ours

    def __post_init__(self) -> None:
        for name, choices in (("weighting", WEIGHTINGS), ("final_norm", FINAL_NORMS)):
            if getattr(self, name) not in choices:
                raise bad_choice(_OPTIONS, name, choices, getattr(self, name))
        for name in ("off_by_one", "exact"):
            if not isinstance(getattr(self, name), bool):
                raise bad_argument(_OPTIONS, name, "True or False", getattr(self, name))
        if self.fixed_teacher is not None and not isinstance(self.fixed_teacher, SentenceTransformer):
            raise bad_argument(_OPTIONS, "fixed_teacher", "a SentenceTransformer or None", self.fixed_teacher)
        if self.seed is not None and (type(self.seed) is not int or self.seed < 0):
            raise bad_argument(_OPTIONS, "seed", "a whole number >= 0 or None", self.seed)


class TwoDMatryoshkaLoss(nn.Module):
    r"""Trains a model whose vectors can be read after any layer and cut to any prefix: 2DMSE or ESE.

    Implements arXiv 2402.14776, whose versions have two objectives; ``l`` is the base loss, ``E_n^d`` the
    first d coordinates of the vector read after layer n of N.

    - ``"2dmse"`` (v1 and v3; weights from the reference code, SeanLee97/AnglE): each step draws one layer n
      from 1 to N - 1 and one size d for the whole batch::

          L = lam_T l(E_N) + lam_S l(E_n) + lam_T l(E_N^d) + lam_S l(E_n^d)
              + kl_weight * KL(softmax(E_N / T), softmax(E_n / T)) * T^2

    - ``"ese"`` (v2, ICLR 2025): all layers, one size k, and targets of size k that are compressed from the
      layer's own vectors::

          distil(E) = MSE(E^k, pca(E)) + kl_weight * KL(softmax(pca(E) / T), softmax(E^k / T)) * T
          L = lam_T [l(E_N) + l(E_N^k) + distil(E_N)]
              + lam_S / (N - 1) * sum_{i < N} 1 / (1 + ln i) [l(E_i^k) + distil(E_i)]

    The texts run through the network once. Vectors are read behind all modules of the model. If it ends with
    ``Normalize``, the base loss gets vectors that are cut first and then normalised, as in use; alignment and
    compression work on what comes before it, since the coordinates of a unit vector say little to a softmax.

    Args:
        model: The ``SentenceTransformer`` to train; its first module is a ``Transformer`` of at least two
            layers.
        base_loss: Any loss of sentence-transformers on ``model`` that does not cache gradients.
        objective: ``"2dmse"`` or ``"ese"``.
        dims: Of 2DMSE, the sizes to draw from; D itself is always trained and left out. ``None`` takes 8, 16,
            32 and so on below D. Of ESE, k, one number or a sequence of one; ``None`` takes 128.
        kl_temperature: T, divides the coordinates; > 0. Reference code: 1.
        kl_weight: Of the KL divergence, >= 0; 0 leaves it out.
        teacher_weight: lam_T, of the losses of the last layer, >= 0.
        student_weight: lam_S, of the losses of earlier layers, >= 0.
        detach_teacher: Of 2DMSE: whether the last layer is a constant for the KL divergence. Reference code:
            no, by which the last layer also learns from the earlier one.
        options: What is seldom changed; ``None`` takes the defaults of :class:`TwoDMatryoshkaLossOptions`.

    Raises:
        ArgumentError: If an argument is outside its domain, the model has no layers to leave out, or the
            base loss cannot be used.

    Inputs:
        Columns of texts and labels are those of the base loss. Labels as wide as the vectors, such as a
        teacher's, are cut with them.

    Relations:
        - ``Matryoshka2dLoss`` of sentence-transformers computes two base losses a step instead of four, draws
          a size for each layer, counts the output of the embeddings as a layer, and multiplies the KL
          divergence, at a temperature of 0.3, by T. Its ``MatryoshkaLoss`` is refused as a base loss: sizes
          would be cut twice.
        - With ``student_weight=0`` and ``kl_weight=0`` it is ``MatryoshkaLoss`` of D and one drawn size.

    Pitfalls:
        - Layers and sizes are drawn anew in each forward pass, also between the batches of one accumulated
          step. In evaluation mode the middle ones are taken, so that the loss is the same each time.
        - ``objective="ese"`` decomposes a D x D matrix for each layer and step: for D = 1024 and 24 layers
          that can take longer than the network. ``exact=False`` is quicker and noisier.
        - Each step looks at a new view of the network, so that ``torch.compile`` would begin anew each time.
        - Losses that cache gradients embed their texts again when nobody is listening; use larger
          batches, or accumulation.
    """

    sampling_step: Tensor

    def __init__(
        self,
        model: SentenceTransformer,
        base_loss: nn.Module,
        *,
        objective: str = "2dmse",
        dims: int | Sequence[int] | None = None,
        kl_temperature: float = 1.0,
        kl_weight: float = 1.0,
        teacher_weight: float = 1.0,
        student_weight: float = 1.0,
        detach_teacher: bool = True,
        options: TwoDMatryoshkaLossOptions | None = None,
    ) -> None:
        super().__init__()
        if objective not in OBJECTIVES:
            raise bad_choice(_OWNER, "objective", OBJECTIVES, objective)
        _check_number("kl_temperature", kl_temperature, zero=False)
        for name, value in (
            ("kl_weight", kl_weight),
            ("teacher_weight", teacher_weight),
            ("student_weight", student_weight),
        ):
            _check_number(name, value, zero=True)
        self.options = options or TwoDMatryoshkaLossOptions()
        _check_combination(objective, self.options, kl_weight=kl_weight, detach_teacher=detach_teacher)
        network = unwrap_model(model)
        transformer = take_transformer(network)
        _check_base_loss(base_loss, model)
        self.model = model
        self.base_loss = base_loss
        self.objective = objective
        self.n_layers = count_layers(transformer.model)
        if self.n_layers < 2:
            raise bad_argument(_OWNER, "model", "one of at least two layers", f"{self.n_layers} layer(s)")
        self.width = measure_width(network)
        self.dims = _read_dims(dims, self.width, objective)
        self.kl_temperature = kl_temperature
        self.kl_weight = kl_weight
        self.teacher_weight = teacher_weight
        self.student_weight = student_weight
        self.detach_teacher = detach_teacher
        if self.options.fixed_teacher is not None:
            _check_teacher(self.options.fixed_teacher, network)
        # In a tuple, so that the norm is not registered, saved and counted as a module of the loss.
        norm = find_final_norm(transformer.model) if self.options.final_norm == "auto" else None
        self._norm: tuple[nn.Module | None] = (norm,)
        self.register_buffer("sampling_step", torch.zeros((), dtype=torch.int64))

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """Compute the loss of a batch.

        Args:
            sentence_features: One dict of tokenised texts for each column.
            labels: Those of the base loss.

        Returns:
            A scalar, float32 (float64 for a float64 model).

        Raises:
            ArgumentError: If the base loss embeds anything but its columns.
        """
        batch = EmbeddedBatch(self.model, list(sentence_features), norm=self._norm[0])
        if self.objective == "ese":
            return self._compute_ese(batch, labels)
        return self._compute_2dmse(batch, labels)

    def _compute_2dmse(self, batch: EmbeddedBatch, labels: Tensor | None) -> Tensor:
        layer, dim = self.draw_sizes()
        is_legacy = self.options.weighting == "legacy"
        student_weight = self.student_weight / layer if is_legacy else self.student_weight
        terms = []
        for size in (self.width, dim):
            last = batch.compute_loss(self.base_loss, labels, layer=self.n_layers, size=size)
            drawn = batch.compute_loss(self.base_loss, labels, layer=layer, size=size)
            terms.append(self.teacher_weight * last + student_weight * drawn)
        loss = torch.stack(terms).sum()
        if self.kl_weight == 0:
            return loss
        temperature = self.kl_temperature
        factor = temperature * math.log(2 + layer) if is_legacy else temperature**2
        with torch.autocast(loss.device.type, enabled=False):
            students = batch.stack(layer)
            if self.options.fixed_teacher is None:
                teachers, beside = batch.stack(self.n_layers), loss.new_zeros(())
                teachers = teachers.detach() if self.detach_teacher else teachers
            else:
                teachers, beside = batch.ask_teacher(self.options.fixed_teacher)
            divergence = compute_kl(students, teachers, temperature=temperature) * factor
            return loss + self.kl_weight * (divergence + beside)

    def _compute_ese(self, batch: EmbeddedBatch, labels: Tensor | None) -> Tensor:
        (size,) = self.dims
        last = batch.compute_loss(self.base_loss, labels, layer=self.n_layers, size=self.width)
        last = last + self._compute_compressed(batch, labels, layer=self.n_layers, size=size)
        first = 0 if self.options.off_by_one else 1
        priors = [
            weigh_layer(layer + 1 - first) * self._compute_compressed(batch, labels, layer=layer, size=size)
            for layer in range(first, first + self.n_layers - 1)
        ]
        return self.teacher_weight * last + self.student_weight * torch.stack(priors).mean()

    def _compute_compressed(
        self, batch: EmbeddedBatch, labels: Tensor | None, *, layer: int, size: int
    ) -> Tensor:
        """Compute the base loss of the first coordinates, and how far they are from compressed vectors."""
        loss = batch.compute_loss(self.base_loss, labels, layer=layer, size=size)
        with torch.autocast(loss.device.type, enabled=False):
            vectors = batch.stack(layer)
            distance = compute_distillation(
                vectors[:, :size],
                compress_vectors(vectors, size, exact=self.options.exact),
                temperature=self.kl_temperature,
                kl_weight=self.kl_weight,
            )
            return loss + distance

    @property
    def trained_layers(self) -> tuple[int, ...]:
        """Numbers of layers that get a loss: all but the one that the reference code of ESE leaves out."""
        skipped = self.n_layers - 1 if self.options.off_by_one else None
        return tuple(layer for layer in range(1, self.n_layers + 1) if layer != skipped)

    def draw_sizes(self) -> tuple[int, int]:
        """Draw the layer and the size of a step of 2DMSE.

        Returns:
            The layer, from 1 to N - 1, and the size, one of ``dims``; in evaluation mode the middle ones.
        """
        if not self.model.training:
            return self.n_layers // 2, self.dims[len(self.dims) // 2]
        if self.options.seed is None:
            state = [int(torch.randint(2**63 - 1, ()))]
        else:
            state = [self.options.seed, int(self.sampling_step)]
            self.sampling_step += 1
        generator = np.random.default_rng(state)
        layer = int(generator.integers(1, self.n_layers))
        return layer, self.dims[int(generator.integers(len(self.dims)))]

    def get_config_dict(self) -> dict[str, Any]:
        """Return the parameters for the model card."""
        options = self.options
        teacher = options.fixed_teacher
        return {
            "base_loss": type(self.base_loss).__name__,
            "objective": self.objective,
            "dims": self.dims,
            "kl_temperature": self.kl_temperature,
            "kl_weight": self.kl_weight,
            "teacher_weight": self.teacher_weight,
            "student_weight": self.student_weight,
            "detach_teacher": self.detach_teacher,
            "weighting": options.weighting,
            "fixed_teacher": None if teacher is None else teacher.model_card_data.base_model,
            "off_by_one": options.off_by_one,
            "exact": options.exact,
            "final_norm": options.final_norm,
            "seed": options.seed,
        }

    @property
    def citation(self) -> str:
        """BibTeX entry for the model card."""
        return (
            "@misc{li20242dmatryoshka,\n"
            "    title={2D Matryoshka Sentence Embeddings},\n"
            "    author={Li, Xianming and Li, Zongxi and Li, Jing and Xie, Haoran and Li, Qing},\n"
            "    year={2024},\n    eprint={2402.14776}\n}"
        )


def _read_dims(dims: int | Sequence[int] | None, width: int, objective: str) -> tuple[int, ...]:
    """Check the sizes against the width, which is always trained and never drawn."""
    if dims is None:
        found = list_dims(width) if objective == "2dmse" else (ESE_SIZE,)
    else:
        found = (dims,) if isinstance(dims, int) else tuple(dims)
    for dim in found:
        check_positive(_OWNER, "dims", dim)
    if objective == "ese" and (len(found) != 1 or found[0] >= width):
        domain = f"one size below {width}, the width of the vectors, for objective='ese'"
        raise bad_argument(_OWNER, "dims", domain, found)
    if max(found, default=0) > width:
        raise bad_argument(_OWNER, "dims", f"sizes of at most {width}, the width of the vectors", found)
    smaller = tuple(sorted({dim for dim in found if dim < width}))
    if not smaller:
        raise bad_argument(_OWNER, "dims", f"sizes below {width}, the width of the vectors", found)
    return smaller


def _check_combination(
    objective: str, options: TwoDMatryoshkaLossOptions, *, kl_weight: float, detach_teacher: bool
) -> None:
    """Refuse options that another objective has: a run would not be what its settings say."""
    foreign = {
        "2dmse": {"off_by_one": options.off_by_one, "exact": not options.exact},
        "ese": {
            "weighting": options.weighting != WEIGHTINGS[0],
            "fixed_teacher": options.fixed_teacher is not None,
            "detach_teacher": not detach_teacher,
        },
    }
    for name, is_changed in foreign[objective].items():
        if is_changed:
            value = detach_teacher if name == "detach_teacher" else getattr(options, name)
            raise bad_argument(_OWNER, name, f"left out: objective={objective!r} has no such thing", value)
    if options.fixed_teacher is not None and kl_weight == 0:
        raise bad_argument(_OWNER, "kl_weight", "positive for a fixed teacher to be asked", kl_weight)


def _check_base_loss(base_loss: object, model: SentenceTransformer) -> None:
    """Refuse what cannot be shown other vectors than the model's own."""
    name = type(base_loss).__name__
    if not isinstance(base_loss, nn.Module):
        raise bad_argument(
            _OWNER, "base_loss", "a loss of sentence-transformers, such as CoSENTLoss(model)", name
        )
    parts = list(base_loss.modules())
    if any(uses_gradient_cache(part) for part in parts):
        remedy = "Take its namesake without `Cached`, or mini_batch_size=None"
        raise bad_argument(_OWNER, "base_loss", "one that does not cache gradients", name, remedy)
    for part in parts:
        if isinstance(part, TwoDMatryoshkaLoss):
            raise bad_argument(_OWNER, "base_loss", _CHANGES_SIZES, name)
        for refused, domain in _REFUSED.items():
            if isinstance(part, refused):
                raise bad_argument(_OWNER, "base_loss", domain, name)
    if not any(part is model for part in parts):
        raise bad_argument(_OWNER, "base_loss", "a loss on `model`", f"{name} on another one")


def _check_teacher(teacher: SentenceTransformer, model: SentenceTransformer) -> None:
    """Refuse a teacher that reads other tokens, or whose vectors have another width."""
    parameter = "fixed_teacher"
    if teacher is model:
        remedy = "Without one the last layer teaches"
        raise bad_argument(_OWNER, parameter, "another model than the one that is trained", "it", remedy)
    mine, theirs = take_transformer(model), take_transformer(teacher)
    widths = (measure_width(model), mine.get_embedding_dimension())
    found = (measure_width(teacher), theirs.get_embedding_dimension())
    if found != widths:
        domain = (
            f"a model whose vectors and states are {widths[0]} and {widths[1]} wide, as the student's are"
        )
        raise bad_argument(_OWNER, parameter, domain, found)
    if teacher.tokenizer.get_vocab() != model.tokenizer.get_vocab():
        raise bad_argument(_OWNER, parameter, "a model with the vocabulary of the student", "another one")


def _check_number(name: str, value: object, *, zero: bool) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (is_number and (0 < value < math.inf or (zero and value == 0))):  # type: ignore[operator]
        raise bad_argument(_OWNER, name, "zero or positive" if zero else "positive and finite", value)
