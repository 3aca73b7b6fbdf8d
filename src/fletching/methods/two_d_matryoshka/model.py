"""ElasticEmbedder: what users call."""

from __future__ import annotations

import inspect
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import WeightedLayerPooling
from sentence_transformers.util.decorators import deprecated_kwargs

from fletching.errors import FidelityWarning, bad_argument, bad_checkpoint, bad_choice
from fletching.methods.two_d_matryoshka.checkpoints import METHOD, find_published, read_mark
from fletching.methods.two_d_matryoshka.config import UNTRAINED
from fletching.methods.two_d_matryoshka.modules import (
    find_transformers,
    make_elastic,
    make_stock,
    measure_width,
)
from fletching.models.embedder import Embedder
from fletching.models.inputs import check_texts
from fletching.models.marks import MARK
from fletching.nn import check_num_layers

_LIBRARIES = ("fletching", "sentence_transformers", "torch")  # not what a warning is to point at

SIDES = ("text", "query", "document")
"""How a text is read: as `encode`, `encode_query` or `encode_document` does."""


class ElasticEmbedder(Embedder):
    """An embedder that is cut at every call: in depth, where time falls, and in width, where storage falls.

    2D Matryoshka (Li et al., arXiv 2402.14776) trains one encoder so that the vector read after any layer and
    cut to any prefix can be used. This class opens such models, and any other embedder of
    sentence-transformers on a BERT, ModernBERT, Qwen, Llama or like network: what is not trained for it may
    be cut as well, and loses more.

    ``encode(texts, num_layers=6, truncate_dim=128)`` runs six layers, pools, keeps 128 numbers and then gives
    the vector length one, if the model's vectors have that. Compare vectors of the same sizes with each
    other. ``encode_query`` and ``encode_document`` take both arguments too, as do pools of processes.

    Saved models are made of stock modules: sentence-transformers opens them whole, and ``fletching.load`` as
    this class. `truncate_model` saves a smaller one.

    Args:
        model_name_or_path: Folder or hub id; ``None`` with ``modules=`` builds a new model.
        untrained: What happens at sizes that the checkpoint says it was not trained for, or that its authors
            advise against: ``"warn"`` (once for each size), ``"refuse"`` or ``"allow"``. A checkpoint that
            does not say is never doubted.
        **kwargs: Arguments of :class:`~fletching.models.Embedder`; ``truncate_dim`` is the width of calls
            that give none.

    Raises:
        ArgumentError: If an argument is outside its domain, or the network cannot be cut.
        CheckpointError: If the model does not begin with a stock ``Transformer``, or pools over all layers.
    """

    usage_example = (
        "vectors = model.encode("
        '["What is fletching?", "Feathers on an arrow."], num_layers=1, truncate_dim=model.width // 2)\n'
        "print(model.similarity(vectors, vectors))"
    )

    def __init__(
        self, model_name_or_path: str | Path | None = None, *, untrained: str = "warn", **kwargs: Any
    ) -> None:
        owner = type(self).__name__
        if untrained not in UNTRAINED:
            raise bad_choice(owner, "untrained", UNTRAINED, untrained)
        check_dim(owner, kwargs.get("truncate_dim"))
        self._mark: dict[str, Any] = {}
        self._untrained = untrained
        self._advised: tuple[int, int] | None = None
        self._warned: set[tuple[str, int]] = set()
        location = None if model_name_or_path is None else str(model_name_or_path)
        super().__init__(location, **kwargs)
        name = location or "(modules)"
        for key, module in [*self.named_children()]:
            self._modules[key] = make_elastic(module)
        transformers = find_transformers(self)
        if not transformers:
            found = type(self[0]).__name__ if len(self) else "nothing"
            problem = f"it begins with {found}, and only a stock Transformer can be cut"
            raise bad_checkpoint(name, problem, "Open it with fletching.load")
        if any(isinstance(module, WeightedLayerPooling) for module in self.modules()):
            problem = "its WeightedLayerPooling reads the states of all layers, none of which can be left out"
            raise bad_checkpoint(name, problem, "Open it with fletching.load")
        for transformer in transformers:
            transformer.check(owner)
        own = {key for key, prompt in (kwargs.get("prompts") or {}).items() if prompt is not None}
        self._take_published(name, own)
        self._check_sizes(owner, (), self.truncate_dim)

    @classmethod
    def from_model(cls, model: SentenceTransformer, **kwargs: Any) -> ElasticEmbedder:
        """Make an elastic embedder of one that is loaded.

        Args:
            model: Any embedder of sentence-transformers. It stays as it is, and shares its weights. What an
                elastic one knows of its sizes is kept.
            **kwargs: Arguments of this class, which win over what the model says.

        Returns:
            The elastic embedder.

        Raises:
            ArgumentError: If it is no embedder, or its network cannot be cut.
        """
        if not isinstance(model, SentenceTransformer):
            domain = "an embedder of sentence-transformers"
            raise bad_argument(f"{cls.__name__}.from_model", "model", domain, type(model).__name__)
        settings = {
            "modules": OrderedDict(model.named_children()),
            "prompts": dict(model.prompts),
            "default_prompt_name": model.default_prompt_name,
            "similarity_fn_name": model.similarity_fn_name,
            "truncate_dim": model.truncate_dim,
            "device": str(model.device),
            "max_tokens_per_batch": getattr(model, "max_tokens_per_batch", None),
        }
        if isinstance(model, ElasticEmbedder):
            settings["untrained"] = model._untrained
        elastic = cls(**{**settings, **kwargs})
        elastic.module_kwargs = model.module_kwargs
        if isinstance(model, ElasticEmbedder):
            elastic._mark, elastic._advised = dict(model._mark), model._advised
        return elastic

    @property
    def num_layers(self) -> int:
        """How many layers there are; of a ``Router``, in its smallest network."""
        return min(transformer.num_layers for transformer in find_transformers(self))

    @property
    def width(self) -> int:
        """How many numbers a vector has before it is cut."""
        return measure_width(self)

    @property
    def trained_layers(self) -> tuple[int, ...] | None:
        """Numbers of layers it was trained to be cut to, beside all; ``None`` if nothing is known."""
        return self._mark.get("trained_layers")

    @trained_layers.setter
    def trained_layers(self, layers: Sequence[int] | None) -> None:
        self._note("trained_layers", layers, self.num_layers)

    @property
    def trained_dims(self) -> tuple[int, ...] | None:
        """Dimensions it was trained to be cut to, beside all; ``None`` if nothing is known."""
        return self._mark.get("trained_dims")

    @trained_dims.setter
    def trained_dims(self, dims: Sequence[int] | None) -> None:
        self._note("trained_dims", dims, self.width)

    @deprecated_kwargs(sentences="inputs")
    def encode(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        *args: Any,
        num_layers: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Encode texts; see ``SentenceTransformer.encode`` for the arguments not listed here.

        Args:
            inputs: One text or a list of texts.
            prompt_name: Name of a saved prompt to put in front.
            prompt: Text to put in front.
            batch_size: Most texts of one micro-batch; ``None`` lets the token budget alone decide.
            *args: Passed on.
            num_layers: Layers to run, from 1 to all; those after them are not computed. ``None`` runs all.
            **kwargs: Passed on. ``truncate_dim``, from 1 to the width, keeps so many leading numbers.

        Returns:
            As the base class: a float32 NumPy array of shape ``(B, D)``, or ``(D,)`` for one text.

        Raises:
            ArgumentError: If an input is not text, if a size is outside its domain, or was not trained and
                the model is to refuse that.
            FletchingError: If the model computes NaN.
        """
        owner = f"{type(self).__name__}.encode"
        self._check_sizes(owner, () if num_layers is None else (num_layers,), kwargs.get("truncate_dim"))
        if num_layers is not None:
            kwargs["num_layers"] = num_layers
        return super().encode(inputs, prompt_name, prompt, batch_size, *args, **kwargs)

    def encode_sizes(
        self,
        texts: Sequence[str],
        layers: Sequence[int],
        *,
        side: str = "text",
        truncate_dim: int | None = None,
        **kwargs: Any,
    ) -> dict[int, NDArray[np.float32]]:
        """Encode texts at several depths in one pass, for measuring: it takes the time of the deepest.

        The vectors are those that ``encode(texts, num_layers=n)`` gives, up to rounding. Depths that were not
        trained are no reason for a warning here.

        Args:
            texts: The texts.
            layers: Numbers of layers, from 1 to all.
            side: ``"query"`` or ``"document"`` reads them as :meth:`encode_query` and :meth:`encode_document`
                do, ``"text"`` as :meth:`encode`.
            truncate_dim: Leading numbers to keep; ``None`` takes the model's, which is all by default.
            **kwargs: Further arguments of :meth:`encode`, such as ``prompt`` and ``batch_size``.

        Returns:
            Number of layers -> vectors, shape ``(B, D)``, in the order of ``layers``.

        Raises:
            ArgumentError: If an argument is outside its domain.
            FletchingError: If the model computes NaN.
        """
        owner = f"{type(self).__name__}.encode_sizes"
        if side not in SIDES:
            raise bad_choice(owner, "side", SIDES, side)
        texts = check_texts(owner, "texts", texts)
        depths = tuple(dict.fromkeys(layers)) if isinstance(layers, Sequence) else ()
        if not depths:
            raise bad_argument(owner, "layers", "a list of numbers of layers", layers)
        for depth in depths:
            check_num_layers(owner, depth, self.num_layers)
        check_dim(owner, truncate_dim, self.width)
        kwargs["truncate_dim"] = truncate_dim
        if side != "text":
            kwargs["task"] = side
            if kwargs.get("prompt") is None and kwargs.get("prompt_name") is None:
                kwargs["prompt_name"] = side if side in self.prompts else None
        encode = super().encode
        if not texts:
            return {depth: np.empty((0, truncate_dim or self.width), dtype=np.float32) for depth in depths}
        if self._runs_depths_at_once:
            vectors = encode(texts, num_layers=depths, **kwargs)
            return {depth: vectors[:, place] for place, depth in enumerate(depths)}
        return {depth: encode(texts, num_layers=depth, **kwargs) for depth in depths}

    def forward(self, input: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Run the modules.

        Args:
            input: Features of a batch.
            **kwargs: ``num_layers``, and what other modules take.

        Returns:
            The features, with ``sentence_embedding (B, D)``; ``(B, L, D)`` for a tuple of L depths.
        """
        features = super().forward(input, **kwargs)
        layers = kwargs.get("num_layers")
        if isinstance(layers, tuple):
            vectors = features["sentence_embedding"]
            features["sentence_embedding"] = vectors.unflatten(0, (len(layers), -1)).transpose(0, 1)
        return features

    def save(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Save the model as stock modules; arguments as for ``SentenceTransformer.save``.

        Args:
            path: Folder.
            *args: Passed on.
            **kwargs: Passed on.
        """
        super(ElasticEmbedder, make_stock(self)).save(path, *args, **kwargs)

    @property
    def _runs_depths_at_once(self) -> bool:
        """Whether rows stay rows: not for texts laid end to end, nor for pictures."""
        return self._text_only and not any(
            transformer.can_flatten_inputs for transformer in find_transformers(self)
        )

    def _note(self, name: str, sizes: Sequence[int] | None, most: int) -> None:
        if sizes is None:
            self._mark.pop(name, None)
            return
        for size in sizes:
            if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= most:
                raise bad_argument(type(self).__name__, name, f"integers from 1 to {most}", size)
        self._mark[name] = tuple(sorted(set(sizes)))

    def _check_sizes(self, owner: str, layers: Sequence[int], dim: int | None) -> None:
        count = self.num_layers if layers else 0
        for depth in layers:
            check_num_layers(owner, depth, count)
            trained = self.trained_layers
            if trained is not None and depth not in (*trained, count):
                self._doubt(owner, "num_layers", depth, f"was not trained; {_list(trained)}")
            elif self._advised and not self._advised[0] <= depth <= self._advised[1]:
                advice = f"is not advised by its authors, who name {self._advised[0]} to {self._advised[1]}"
                self._doubt(owner, "num_layers", depth, advice)
        if dim is None:
            return
        check_dim(owner, dim, width := self.width)
        trained = self.trained_dims
        if trained is not None and dim not in (*trained, width):
            self._doubt(owner, "truncate_dim", dim, f"was not trained; {_list(trained)}")

    def _doubt(self, owner: str, parameter: str, value: int, problem: str) -> None:
        """Do what the user wants done at a size that the checkpoint does not stand for."""
        if self._untrained == "refuse":
            remedy = 'Open the model with untrained="allow" to use it all the same'
            raise bad_argument(
                owner, parameter, "a size of this checkpoint", value, f"It {problem}. {remedy}"
            )
        if self._untrained == "warn" and (parameter, value) not in self._warned:
            self._warned.add((parameter, value))
            message = f"{owner}: {parameter}={value} {problem}."
            warnings.warn(message, FidelityWarning, stacklevel=_count_own_frames())

    def _take_published(self, location: str, own_prompts: set[str]) -> None:
        """Complete the files of a released checkpoint by what its card says."""
        row = find_published(location)
        if row is None:
            return
        self._advised = row.layers
        if row.dims is not None and self.trained_dims is None:
            self.trained_dims = row.dims
        if row.query_prompt and "query" not in own_prompts and not self.prompts.get("query"):
            self.prompts["query"] = row.query_prompt

    def _parse_model_config(self, model_config: dict[str, Any]) -> None:
        super()._parse_model_config(model_config)
        self._mark = read_mark(model_config)

    def _get_model_config(self) -> dict[str, Any]:
        sizes = {
            name: list(value) if isinstance(value, tuple) else value for name, value in self._mark.items()
        }
        return {**super()._get_model_config(), MARK: {**sizes, "method": METHOD}}


def check_dim(owner: str, dim: object, width: int | None = None) -> None:
    """Refuse a width that vectors cannot be cut to.

    Args:
        owner: The call named in the error.
        dim: Anything; ``None`` cuts nothing.
        width: Width of the model; ``None`` if it is not known yet.

    Raises:
        ArgumentError: If it is no integer from 1 to ``width``.
    """
    if dim is None:
        return
    if not isinstance(dim, int) or isinstance(dim, bool) or dim < 1 or (width is not None and dim > width):
        domain = "a positive integer" if width is None else f"from 1 to {width}, the width of the model"
        raise bad_argument(owner, "truncate_dim", domain, dim)


def _count_own_frames() -> int:
    """Say which ``stacklevel`` is the user's line, however many calls of the libraries lie in between."""
    level, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _LIBRARIES:
        level, frame = level + 1, frame.f_back
    return level


def _list(sizes: Sequence[int]) -> str:
    return f"{', '.join(map(str, sizes))} were" if sizes else "only the full size was"
