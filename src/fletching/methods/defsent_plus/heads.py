"""What stands between a sentence vector and the classes in training, and what it starts from."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForMaskedLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from fletching.errors import FidelityWarning, bad_argument, bad_checkpoint, bad_choice
from fletching.methods.defsent_plus.config import ACTIVATIONS
from fletching.methods.defsent_plus.functional import project_definitions
from fletching.models.inputs import check_positive

__all__ = [
    "HEADS",
    "MaskedWordHead",
    "ProjectionHead",
    "build_head",
    "find_network",
    "find_single_words",
    "predict_words",
]

logger = logging.getLogger(__name__)

HEADS = ("auto", "pooler", "lm_head", "identity")
"""What a projection may start from, apart from a layer of your own."""

_OWNER = "DefinitionProjectionLoss"
_LM_HEAD_FAMILIES = ("roberta", "camembert", "xmod")  # parts of `model_type`: pre-trained without a pooler
_ACTIVATION_OF = {"pooler": "tanh", "lm_head": "gelu", "identity": "tanh"}


class ProjectionHead(nn.Module):
    """``activation(W h + b)``, float32: trained with the encoder, needed no more once that is done.

    Args:
        dense: ``W`` and ``b``; taken as it is, not copied.
        activation: One of ``ACTIVATIONS``.
        source: Where the weights come from, in words.

    Raises:
        ArgumentError: If the activation is unknown.
    """

    def __init__(self, dense: nn.Linear, activation: str = "tanh", *, source: str = "given") -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise bad_choice(_OWNER, "activation", ACTIVATIONS, activation)
        self.dense = dense
        self.activation = activation
        self.source = source

    def forward(self, vectors: Tensor) -> Tensor:
        """Project sentence vectors.

        Args:
            vectors: Shape ``(B, D)``.

        Returns:
            Shape ``(B, D)``, in the precision of the weights.
        """
        weight, bias = self.dense.weight, self.dense.bias
        return project_definitions(vectors.to(weight.dtype), weight, bias, activation=self.activation)


def build_head(
    model: nn.Module,
    *,
    head: str | nn.Linear = "auto",
    activation: str = "auto",
    backbone: str | None = None,
) -> ProjectionHead:
    """Build the projection of an encoder from weights that were pre-trained with it.

    A checkpoint without pooler weights gets random ones from transformers, without a word; so its files are
    asked, not the network in memory. ``"auto"`` takes the first that is there:

    - of BERT and all that is not named below: the pooler of the model's own checkpoint, that of ``backbone``;
      ``lm_head.dense`` of the two;
    - of RoBERTa, XLM-R and CamemBERT: ``lm_head.dense`` of ``backbone``, of the model's own checkpoint; the
      pooler of the two;
    - where there is none: the identity, with a warning.

    Args:
        model: An embedder of sentence-transformers whose first module is a Transformer.
        head: One of :data:`HEADS`, or a layer, which is copied.
        activation: One of ``ACTIVATIONS``; ``"auto"`` takes tanh with a pooler, a layer of yours and
            the identity, GELU with ``lm_head.dense``.
        backbone: Folder or hub id of the model that the encoder was made of, such as
            ``"FacebookAI/roberta-base"``.

    Returns:
        The head, with float32 weights of its own.

    Raises:
        ArgumentError: If an argument is outside its domain, or what ``head`` asks for is in neither
            checkpoint.
        CheckpointError: If ``backbone`` cannot be opened.
    """
    if activation != "auto" and activation not in ACTIVATIONS:
        raise bad_choice(_OWNER, "activation", ("auto", *ACTIVATIONS), activation)
    network = find_network(model)
    width = int(network.config.hidden_size)
    if isinstance(head, nn.Linear):
        return _wrap(head, "given", activation, "a layer that was given", width=width)
    if head not in HEADS:
        raise bad_choice(_OWNER, "head", HEADS, head)
    for kind, source, dense in _candidates(network, head, backbone):
        logger.info("The projection starts from %s.", source)
        return _wrap(dense, kind, activation, source, width=width)
    if head in ("pooler", "lm_head"):
        places = "the model's checkpoint" + (f" or in {backbone!r}" if backbone else "")
        remedy = "Name the model that it was made of with backbone=, or take head='identity'"
        raise bad_argument(_OWNER, "head", f"of weights that are in {places}", head, remedy)
    if head == "auto":
        warnings.warn(
            f"{_OWNER}: the checkpoint of the model has no weights for the projection; it starts from the "
            "identity. Name the model that it was made of with backbone=.",
            FidelityWarning,
            stacklevel=3,
        )
    return _wrap(_build_identity(width), "identity", activation, "the identity", width=width)


def find_network(model: Any) -> PreTrainedModel:
    """Find the backbone of an embedder.

    Args:
        model: An embedder of sentence-transformers.

    Returns:
        Its network, of transformers.

    Raises:
        ArgumentError: If its first module holds none.
    """
    first = next(iter(model.children()), None) if isinstance(model, nn.Module) else None
    network = getattr(first, "model", None)
    if not isinstance(network, PreTrainedModel):
        raise bad_argument(_OWNER, "model", "an embedder whose first module is a Transformer", type(model))
    return network


def _candidates(
    network: PreTrainedModel, head: str, backbone: str | None
) -> Iterator[tuple[str, str, nn.Linear]]:
    """Yield what a projection may start from, the best first."""
    own = getattr(network.config, "_name_or_path", "") or getattr(network, "name_or_path", "")
    family = str(network.config.model_type)
    if any(part in family for part in _LM_HEAD_FAMILIES):
        kinds, places = ("lm_head", "pooler"), (backbone, own)
    else:
        kinds, places = ("pooler", "lm_head"), (own, backbone)
    for kind in kinds:
        if head not in ("auto", kind):
            continue
        for place in places:
            dense = _read_dense(place, kind, is_own=place is own) if place else None
            if dense is not None:
                if kind == "pooler" and place is own:  # of the network as it is, should it have been trained
                    dense = _pooler_of(network) or dense
                yield kind, f"{'the pooler' if kind == 'pooler' else 'lm_head.dense'} of {place}", dense


def _read_dense(location: str, kind: str, *, is_own: bool) -> nn.Linear | None:
    """Read a layer of a checkpoint; ``None`` if its weights are not there."""
    reader = AutoModel if kind == "pooler" else AutoModelForMaskedLM
    try:
        found, report = reader.from_pretrained(location, output_loading_info=True)
    except (OSError, ValueError, KeyError) as error:
        if is_own:  # a network that was built in memory, or whose files are gone
            return None
        raise bad_checkpoint(location, f"it cannot be opened as the backbone ({error})") from error
    missing = tuple(report["missing_keys"])
    if kind == "pooler":
        return None if any(name.startswith("pooler.") for name in missing) else _pooler_of(found)
    dense = getattr(getattr(found, "lm_head", None), "dense", None)
    if not isinstance(dense, nn.Linear) or any(name.startswith("lm_head.dense") for name in missing):
        return None
    return dense


def _pooler_of(network: Any) -> nn.Linear | None:
    """Return the layer of a pooler: BERT has it inside, ALBERT is it."""
    pooler = getattr(network, "pooler", None)
    dense = pooler if isinstance(pooler, nn.Linear) else getattr(pooler, "dense", None)
    return dense if isinstance(dense, nn.Linear) else None


def _wrap(dense: nn.Linear, kind: str, activation: str, source: str, *, width: int) -> ProjectionHead:
    if dense.in_features != width or dense.bias is None:
        domain = f"a layer with a bias that reads {width} numbers, as many as the model's vectors have"
        raise bad_argument(_OWNER, "head", domain, dense)
    chosen = _ACTIVATION_OF.get(kind, "tanh") if activation == "auto" else activation
    copied = copy.deepcopy(dense).float().requires_grad_(True)
    return ProjectionHead(copied, chosen, source=source)


def _build_identity(width: int) -> nn.Linear:
    dense = nn.Linear(width, width, device="meta").to_empty(device="cpu")  # draws no random number
    with torch.no_grad():
        nn.init.eye_(dense.weight)
        nn.init.zeros_(dense.bias)
    return dense


class _Given(nn.Module):
    """Stands where the backbone of a model with a head was, and returns what it is given."""

    def forward(self, *args: Any, inputs_embeds: Tensor, **kwargs: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=inputs_embeds)


class MaskedWordHead(nn.Module):
    """A pre-trained head for masked words, whole and frozen: what DefSent classifies with.

    Of BERT: a layer, GELU, LayerNorm, and the table of word embeddings with a bias; of other architectures
    whatever transformers has there.

    Args:
        network: A ``...ForMaskedLM`` of transformers; its backbone is taken out, its head is frozen.

    Raises:
        ArgumentError: If it is no such model, or its head reads more than states.
    """

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        prefix = network.base_model_prefix
        if not type(network).__name__.endswith("ForMaskedLM") or not hasattr(network, prefix):
            domain = "a model of transformers with a head for masked words"
            raise bad_argument("MaskedWordHead", "network", domain, type(network).__name__)
        setattr(network, prefix, _Given())
        self.network = network.eval().requires_grad_(False)
        try:
            with torch.no_grad():
                self(torch.zeros(1, network.config.hidden_size))
        except (TypeError, AttributeError) as error:
            domain = "a model whose head reads nothing but states"
            raise bad_argument("MaskedWordHead", "network", domain, type(network).__name__) from error

    @classmethod
    def from_pretrained(cls, location: str) -> MaskedWordHead:
        """Read the head of a checkpoint.

        Args:
            location: Folder or hub id.

        Returns:
            The head, float32.

        Raises:
            CheckpointError: If the checkpoint cannot be opened, or has no weights for a head.
        """
        try:
            network, report = AutoModelForMaskedLM.from_pretrained(
                location, output_loading_info=True, dtype=torch.float32, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            raise bad_checkpoint(location, f"it has no head for masked words ({error})") from error
        prefix = f"{network.base_model_prefix}."
        missing = sorted(name for name in report["missing_keys"] if not name.startswith(prefix))
        if missing:
            problem = f"it has no head for masked words: {missing[0]!r} is not there"
            remedy = "Name the model that it was made of with backbone="
            raise bad_checkpoint(location, problem, remedy)
        return cls(network)

    def train(self, mode: bool = True) -> MaskedWordHead:
        """Stay as it is: a frozen head has no training mode.

        Args:
            mode: Ignored.

        Returns:
            The head itself.
        """
        return super().train(False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Score every token of the vocabulary.

        Args:
            vectors: Sentence vectors, shape ``(B, D)``.

        Returns:
            Logits, shape ``(B, vocabulary)``, float32.
        """
        given = vectors.to(next(self.network.parameters()).dtype)[:, None]
        scores: Tensor = self.network(inputs_embeds=given).logits[:, 0]
        return scores.float()


def find_single_words(entries: Sequence[str], tokenizer: Any) -> dict[str, int]:
    """Find the entries that are one token: all that DefSent can be trained on.

    Args:
        entries: Words and expressions.
        tokenizer: That of the encoder. A space in front makes RoBERTa's read a word as one inside a sentence;
            those of BERT's kind ignore it.

    Returns:
        Entry -> id of its token, in the order given.
    """
    found: dict[str, int] = {}
    for entry in entries:
        ids = tokenizer(f" {entry}", add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            found[entry] = int(ids[0])
    return found


@torch.inference_mode()
def predict_words(
    model: Any, head: MaskedWordHead, definitions: Sequence[str], *, top_k: int = 10
) -> list[list[tuple[str, float]]]:
    """Name the words that definitions may belong to, as DefSent does.

    Args:
        model: The embedder.
        head: What it was trained with.
        definitions: Texts.
        top_k: Words of each, at least 1; no more than the vocabulary has.

    Returns:
        For each definition, words with their logits, the best first.

    Raises:
        ArgumentError: If ``top_k`` is no positive integer.
    """
    check_positive("predict_words", "top_k", top_k)
    vectors = model.encode(list(definitions), convert_to_numpy=False, convert_to_tensor=True)
    scores = head.to(vectors.device)(vectors)
    best = scores.topk(min(top_k, scores.shape[-1]), dim=-1)
    tokenizer = model.tokenizer
    words = [[tokenizer.decode([token]).strip() for token in row] for row in best.indices.tolist()]
    return [
        list(zip(row, values, strict=True)) for row, values in zip(words, best.values.tolist(), strict=True)
    ]
