"""Entry embeddings: one vector for each class, made of its definitions, on disk with the entries' names."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import batch_to_device
from torch import Tensor
from torch.nn.functional import normalize

from fletching.data.lines import StrPath, Words
from fletching.errors import FletchingError, bad_argument, bad_choice, bad_record, bad_shape
from fletching.methods.defsent_plus.config import BARE_POOLINGS, ENTRY_POOLINGS, ICAConfig
from fletching.methods.defsent_plus.data import DefinitionSet
from fletching.methods.defsent_plus.functional import average_definitions, ica_transform
from fletching.methods.defsent_plus.modules import PromptTransformer
from fletching.models.inputs import check_positive
from fletching.models.sharing import fingerprint
from fletching.progress import progress_bar

logger = logging.getLogger(__name__)

_FORMAT = "fletching.defsent_plus.entries/1"


class EntryEmbeddings:
    """A frozen vector for each class of a :class:`DefinitionSet`, from :meth:`build` or :meth:`load`.

    Args:
        vectors: E, shape ``(V, D)``; kept in float32, on the CPU.
        members: The entries of each class, the first one naming it.
        how: ``"ac"`` or ``"amp"``.
        transformed: Whether the vectors are independent components.
        source: Fingerprint of the model that read the definitions; ``""`` if it is not known.

    Raises:
        ArgumentError: If ``how`` is no such name, or a vector is not finite.
        ShapeError: If there is not one vector for each class.
    """

    def __init__(
        self,
        vectors: Tensor,
        members: Sequence[Sequence[str]],
        *,
        how: str,
        transformed: bool = False,
        source: str = "",
    ) -> None:
        owner = type(self).__name__
        _check_how(owner, how)
        if vectors.ndim != 2 or len(vectors) != len(members):
            raise bad_shape(owner, "vectors", "V, D", (len(members), -1), vectors.shape)
        if not bool(vectors.isfinite().all()):
            raise bad_argument(owner, "vectors", "finite", "NaN or infinity")
        self.vectors = vectors.detach().float().cpu().contiguous()
        self.members = tuple(map(tuple, members))
        self.how = how
        self.transformed = transformed
        self.source = source

    @classmethod
    def build(
        cls,
        model: Any,
        definitions: DefinitionSet,
        *,
        how: str = "ac",
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
    ) -> EntryEmbeddings:
        """Read every definition, bare, and average over those of each entry.

        The model computes without dropout and without gradients, and is left as it was. A definition that
        several classes share is read once. What is after the transformer in the model does not count, nor do
        prompts and templates: the input is the definition between the special tokens.

        Args:
            model: An embedder: any model of sentence-transformers that begins with a transformer.
            definitions: The definitions.
            how: ``"ac"`` averages the first token's state (average CLS), ``"amp"`` the mean of all tokens'
                states, special ones included (average mean pooling).
            batch_size: Definitions read at once.
            show_progress_bar: Whether to show progress; ``None``: if someone watches.

        Returns:
            The entry embeddings.

        Raises:
            ArgumentError: If ``how`` or ``batch_size`` is outside its domain.
            FletchingError: If the model computes NaN.
        """
        owner = f"{cls.__name__}.build"
        _check_how(owner, how)
        texts: dict[str, int] = {}
        rows: list[int] = []
        labels: list[int] = []
        for definition, label in definitions.examples():
            rows.append(texts.setdefault(definition, len(texts)))
            labels.append(label)
        vectors = embed_bare(
            model,
            list(texts),
            pooling=ENTRY_POOLINGS[how],
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
        )
        averages = average_definitions(
            vectors, torch.tensor(labels), entries=len(definitions), rows=torch.tensor(rows)
        )
        return cls(averages, definitions.members, how=how, source=fingerprint(model))

    @property
    def entries(self) -> tuple[str, ...]:
        """Name of each class: its first entry."""
        return tuple(names[0] for names in self.members)

    def __len__(self) -> int:
        """Number of classes."""
        return len(self.members)

    def __repr__(self) -> str:
        shape = f"{len(self)} x {self.vectors.shape[1]}"
        return f"{type(self).__name__}({shape}, how={self.how!r}, transformed={self.transformed})"

    def ica(self, config: ICAConfig | None = None) -> EntryEmbeddings:
        """Make the vectors isotropic: independent components instead of hidden states.

        Args:
            config: The settings; ``None`` for the defaults.

        Returns:
            New entry embeddings of the same classes.

        Raises:
            ArgumentError: If there are fewer entries than dimensions, or they span fewer dimensions.
        """
        vectors = ica_transform(self.vectors, config=config)
        return type(self)(vectors, self.members, how=self.how, transformed=True, source=self.source)

    def normalize(self) -> EntryEmbeddings:
        """Give every vector length one, which the method does not do: the logits become smaller.

        Returns:
            New entry embeddings of the same classes.
        """
        vectors = normalize(self.vectors, dim=1)
        return type(self)(
            vectors, self.members, how=self.how, transformed=self.transformed, source=self.source
        )

    def save(self, path: StrPath) -> None:
        """Write vectors and entries into one safetensors file, which appears when it is complete.

        Args:
            path: The file; its folder is made when missing.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {
            "format": _FORMAT,
            "how": self.how,
            "transformed": json.dumps(self.transformed),
            "source": self.source,
            "members": json.dumps(self.members, ensure_ascii=False),
        }
        part = path.with_name(f"{path.name}.part")
        try:
            save_file({"vectors": self.vectors}, part, metadata=metadata)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: StrPath) -> EntryEmbeddings:
        """Read what :meth:`save` wrote.

        Args:
            path: The file.

        Returns:
            The entry embeddings.

        Raises:
            DataError: If there is no such file, or it is something else.
        """
        path = Path(path)
        if not path.is_file():
            raise bad_record(path, None, None, "an existing file", Words("no file under this name"))
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise bad_record(path, None, None, "entry embeddings", Words("another safetensors file"))
                return cls(
                    file.get_tensor("vectors"),
                    json.loads(metadata["members"]),
                    how=metadata["how"],
                    transformed=json.loads(metadata["transformed"]),
                    source=metadata["source"],
                )
        except (SafetensorError, KeyError) as error:
            raise bad_record(path, None, None, "entry embeddings", Words("a broken file")) from error


def embed_bare(
    model: Any,
    texts: Sequence[str],
    *,
    pooling: str,
    batch_size: int = 32,
    show_progress_bar: bool | None = None,
) -> Tensor:
    """Pool the last hidden states of bare texts, without prompt, template, projection or unit length.

    Args:
        model: An embedder: any model of sentence-transformers that begins with a transformer.
        texts: The texts.
        pooling: ``"cls"``, ``"mean"`` (special tokens included) or ``"max"``.
        batch_size: Texts read at once.
        show_progress_bar: Whether to show progress; ``None``: if someone watches.

    Returns:
        Shape ``(N, D)``, float32, on the CPU.

    Raises:
        ArgumentError: If ``pooling`` or ``batch_size`` is outside its domain.
        FletchingError: If the model computes NaN.
    """
    if pooling not in BARE_POOLINGS:
        raise bad_choice("embed_bare", "pooling", BARE_POOLINGS, pooling)
    check_positive("embed_bare", "batch_size", batch_size)
    network = model[0]
    pool: Any = Pooling(network.get_embedding_dimension(), pooling)
    options = {"templated": False} if isinstance(network, PromptTransformer) else {}
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]), reverse=True)
    vectors = torch.empty((len(texts), network.get_embedding_dimension()))
    full: list[str] = []
    with _evaluating(model), progress_bar(len(texts), "Definitions", show_progress_bar) as advance:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            read = [texts[index] for index in batch]
            with getattr(model, "_tokenizer_lock", nullcontext()):
                features = network.preprocess(read, **options)
            full += _find_full(model, read, features)
            features = batch_to_device(features, model.device)
            vectors[batch] = pool(network(features))["sentence_embedding"].float().cpu()
            advance(len(batch))
    if bool(vectors.isnan().any()):
        raise FletchingError("embed_bare: the model computed NaN; load it in float32 or check its weights.")
    _report_cut(model, full)
    return vectors


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Compute without dropout and gradients, and leave every module in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _find_full(model: Any, texts: Sequence[str], features: dict[str, Any]) -> list[str]:
    """Find the texts that fill the window, so that something may be cut off."""
    window, mask = model.max_seq_length, features.get("attention_mask")
    if window is None or mask is None or len(mask) != len(texts):
        return []
    lengths = mask.sum(dim=1).tolist()
    return [text for text, length in zip(texts, lengths, strict=True) if length >= window]


def _report_cut(model: Any, texts: Sequence[str]) -> None:
    """Log how many of the texts that fill the window are longer than it."""
    if not texts:
        return
    with getattr(model, "_tokenizer_lock", nullcontext()):
        ids = model.tokenizer(list(texts), truncation=False, padding=False, verbose=False)["input_ids"]
    longer = sum(len(row) > model.max_seq_length for row in ids)
    if longer:
        logger.warning(
            "%d texts are longer than the %d tokens that the model reads; their ends are not read.",
            longer,
            model.max_seq_length,
        )


def _check_how(owner: str, how: object) -> None:
    if how not in ENTRY_POOLINGS:
        raise bad_choice(owner, "how", ENTRY_POOLINGS, how)
