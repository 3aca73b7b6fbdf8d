"""The modules of a DSE model: a transformer that reads both sentences, the pooling, the head over pairs.

``SiameseTransformer -> TopLayersPooling (-> Dense) -> DSEPairHead``. Given texts, they compute
``sentence_embedding``; given pairs, ``scores`` as well. So the whole works as a stock ``CrossEncoder`` does,
in its trainer and losses too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from sentence_transformers.base.modules import Module, Transformer
from torch import Tensor, nn
from torch.nn.functional import dropout, linear
from transformers import PreTrainedModel

from fletching.errors import bad_argument, bad_choice, bad_shape
from fletching.methods.dse.config import (
    COMBINE,
    HEADS,
    TOKEN_POOLING,
    check_fc_dims,
    check_label,
    choose_task,
)
from fletching.methods.dse.functional import (
    build_pair_features,
    drop_first_token,
    pool_top_layers,
    score_first_layer,
)
from fletching.models.inputs import check_count, check_positive
from fletching.nn import copy_structure, find_final_norm, view_module

PAIRS = "pair_count"
"""Feature that says how many pairs a batch holds: their first sentences come first, then the second ones."""

_CHUNK_VALUES = 2**21  # of the vectors that are scored at once: 8 MB, and a few times that on the way


class LayersTransformer(Transformer):
    """A ``Transformer`` that hands out every layer.

    transformers leaves hooks on a network whose states it hands out, and it cannot be pickled any more. So a
    copy of the modules runs, which shares every weight: the network itself stays as it is.

    Args:
        model_name_or_path: Folder or hub id of an encoder.
        **kwargs: Arguments of ``Transformer``.
    """

    def __init__(self, model_name_or_path: str, **kwargs: Any) -> None:
        super().__init__(model_name_or_path, **kwargs)
        self.unpad_inputs = False  # packed rows have no mask to pool by
        self.model.config.output_hidden_states = True

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Run the network; see ``Transformer.forward``.

        Args:
            features: Of ``preprocess``.
            **kwargs: Passed on.

        Returns:
            The features with ``token_embeddings`` and ``all_layer_embeddings``.
        """
        twin = view_module(self, Transformer, model=copy_structure(self.model))
        found: dict[str, Any] = twin.forward(features, **kwargs)
        return found

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build such a network once, on no device: a process that has built none hands out no states."""
        super().__setstate__(state)
        networks: list[Any] = [part for part in self.model.modules() if isinstance(part, PreTrainedModel)]
        with torch.device("meta"):
            type(networks[0])(copy.deepcopy(networks[0].config))


class SiameseTransformer(LayersTransformer):
    """A transformer that reads the two sentences of a pair apart; both by the same weights.

    Args:
        model_name_or_path: Folder or hub id of an encoder.
        **kwargs: Arguments of ``Transformer``.
    """

    def as_single(self) -> LayersTransformer:
        """Look at it as the transformer of an embedder, which reads no pairs.

        Returns:
            A module that shares everything with this one.
        """
        single: LayersTransformer = view_module(self, LayersTransformer)
        return single

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Tokenize texts, or the sentences of pairs, each on its own.

        Args:
            inputs: B texts, or B pairs of texts.
            prompt: Put in front of each text, or of each first sentence.
            **kwargs: Passed on.

        Returns:
            Padded features, shape ``(B, T)``; for pairs ``(2 B, T)``, all first sentences before all second
            ones, and their number.
        """
        if not inputs or not all(isinstance(item, (list, tuple)) and len(item) == 2 for item in inputs):
            return super().preprocess(inputs, prompt=prompt, **kwargs)
        texts = [f"{prompt or ''}{first}" for first, _ in inputs] + [second for _, second in inputs]
        return {**super().preprocess(texts, **kwargs), PAIRS: len(inputs)}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Run the network; see ``Transformer.forward``.

        Args:
            features: Of :meth:`preprocess`.
            **kwargs: Passed on.

        Returns:
            The features with ``token_embeddings`` and ``all_layer_embeddings``.
        """
        own = {name: features[name] for name in (PAIRS,) if name in features}
        rest = {name: value for name, value in features.items() if name != PAIRS}
        return {**super().forward(rest, **kwargs), **own}


class TopLayersPooling(Module):
    """Pools the top layers of an encoder into one vector (Barkan et al., arXiv 1908.05161).

    Reads ``all_layer_embeddings``, so the transformer before it must have
    ``config_kwargs={"output_hidden_states": True}``. No normalisation follows: the head reads lengths.

    Args:
        word_embedding_dimension: Width of a layer.
        num_layers: Top layers to read; the embedding layer is none of them.
        combine: ``"concat"`` lays them side by side, lowest first; ``"mean"`` averages them.
        token_pooling: ``"mean"``, ``"sqrt_mean"`` (the sum by the root of the length), ``"max"``; or
            ``"cls"``: a dense layer with tanh over the first token of the last layer, as BERT has it.
        include_cls: Whether the first token counts; ``[SEP]`` does in any case.
        dropout: Of the pooled vector, in training.
        apply_final_norm: Whether the norm behind the last layer of a pre-norm encoder is applied to the
            others too.

    Raises:
        ArgumentError: If an argument is outside its domain.
    """

    config_keys = [
        "word_embedding_dimension",
        "num_layers",
        "combine",
        "token_pooling",
        "include_cls",
        "dropout",
        "apply_final_norm",
    ]

    def __init__(
        self,
        word_embedding_dimension: int,
        *,
        num_layers: int = 4,
        combine: str = "concat",
        token_pooling: str = "mean",
        include_cls: bool = False,
        dropout: float = 0.1,
        apply_final_norm: bool = False,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        check_positive(owner, "word_embedding_dimension", word_embedding_dimension)
        check_positive(owner, "num_layers", num_layers)
        if combine not in COMBINE:
            raise bad_choice(owner, "combine", COMBINE, combine)
        if token_pooling not in (*TOKEN_POOLING, "cls"):
            raise bad_choice(owner, "token_pooling", (*TOKEN_POOLING, "cls"), token_pooling)
        if not 0 <= dropout < 1:
            raise bad_argument(owner, "dropout", "from 0 to below 1", dropout)
        self.word_embedding_dimension = word_embedding_dimension
        self.num_layers = num_layers
        self.combine = combine
        self.token_pooling = token_pooling
        self.include_cls = include_cls
        self.dropout = dropout
        self.apply_final_norm = apply_final_norm
        self.dense: nn.Linear | None = None
        if token_pooling == "cls":
            self.dense = nn.Linear(word_embedding_dimension, word_embedding_dimension)
        self._final_norm: tuple[nn.Module, ...] | None = None  # in a tuple: its weights are the encoder's

    def on_model_ready(self, model: Any) -> None:
        """Look up the norm of the encoder in front, once the model is put together.

        Args:
            model: The model that this module is part of.
        """
        if self.apply_final_norm:
            norm = find_final_norm(model[0].model)
            self._final_norm = () if norm is None else (norm,)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Pool the top layers.

        Args:
            features: With ``all_layer_embeddings`` and ``attention_mask (B, T)``.
            **kwargs: Ignored.

        Returns:
            The features with ``sentence_embedding (B, D)``, of the layers' precision.

        Raises:
            ArgumentError: If the hidden states are missing, or there are fewer than ``num_layers``.
        """
        mask = features["attention_mask"]
        layers = self._take_layers(features)
        if self.dense is not None:
            first = mask.bool().int().argmax(dim=1)
            rows = torch.arange(len(first), device=first.device)
            pooled = self.dense(layers[-1][rows, first]).tanh()
        else:
            keep = mask if self.include_cls else drop_first_token(mask)
            pooled = pool_top_layers(layers, keep, self.combine, self.token_pooling)
        pooled = dropout(pooled.to(layers[-1].dtype), self.dropout, self.training)
        return {**features, "sentence_embedding": pooled}

    def get_embedding_dimension(self) -> int:
        """Width of the pooled vector."""
        layers = self.num_layers if self.combine == "concat" and self.dense is None else 1
        return layers * self.word_embedding_dimension

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the configuration, and the weights if there are any."""
        self.save_config(output_path)
        if self.dense is not None:
            self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, **kwargs: Any) -> TopLayersPooling:
        """Read a saved module; see ``Module.load``."""
        hub = _take_hub_options(kwargs)
        module = cls(**cls.load_config(model_name_or_path, **hub))
        if module.dense is not None:
            cls.load_torch_weights(model_name_or_path, model=module, **hub)
        return module

    def _take_layers(self, features: dict[str, Any]) -> list[Tensor]:
        states = features.get("all_layer_embeddings")
        owner = type(self).__name__
        if states is None:
            domain = (
                "in the features: build the Transformer with config_kwargs={'output_hidden_states': True}"
            )
            raise bad_argument(owner, "all_layer_embeddings", domain, None)
        if len(states) <= self.num_layers:  # the first is the embedding layer
            domain = f"at most {len(states) - 1}, the layers of this encoder"
            raise bad_argument(owner, "num_layers", domain, self.num_layers)
        *lower, last = states[-self.num_layers :]
        if self.apply_final_norm:
            if self._final_norm is None:
                domain = "False outside of a model"
                remedy = "Call on_model_ready(model) for a module that was appended later"
                raise bad_argument(owner, "apply_final_norm", domain, True, remedy)
            for norm in self._final_norm:  # the last layer has been through it
                lower = [norm(layer) for layer in lower]
        return [*lower, last]


class DSEPairHead(Module):
    """Scores pairs of sentence vectors: ``W2 relu(W1 [u ; v ; u * v ; |u - v|] + b1) + b2``.

    The last module of a DSE model. Everything is computed in float32, whatever the precision of the weights.

    Args:
        embedding_dimension: Width of a sentence vector.
        fc_dims: Widths of the layers, a ReLU between them; the last is the number of labels. For ``"dot"`` it
            may be empty.
        kind: ``"mlp"``; or ``"dot"``, where the layers read nothing but ``u . v``.
        task: ``"binary"``, ``"multiclass"`` or ``"regression"``; ``None`` takes ``"binary"`` for one label
            and ``"multiclass"`` for more.
        symmetric: Whether a score is the mean of both orders of the pair. Reference code: no.
        label: What ranking goes by, for a multiclass head: how much more likely is this class than all
            others? ``None`` leaves such a head unable to rank.
        seed: Of the initial weights.

    Raises:
        ArgumentError: If an argument is outside its domain.
    """

    config_keys = ["embedding_dimension", "fc_dims", "kind", "task", "symmetric", "label"]

    def __init__(
        self,
        embedding_dimension: int,
        fc_dims: Sequence[int] = (512, 1),
        *,
        kind: str = "mlp",
        task: str | None = None,
        symmetric: bool = False,
        label: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        check_positive(owner, "embedding_dimension", embedding_dimension)
        if kind not in HEADS:
            raise bad_choice(owner, "kind", HEADS, kind)
        self.fc_dims = check_fc_dims(owner, kind, fc_dims)
        self.embedding_dimension = embedding_dimension
        self.kind = kind
        self.task = choose_task(owner, task, self.num_labels)
        self.symmetric = bool(symmetric)
        self.label = label
        widths = [4 * embedding_dimension if kind == "mlp" else 1, *self.fc_dims]
        self.layers = nn.ModuleList(nn.Linear(*sizes) for sizes in pairwise(widths))
        draw_weights(self.layers, seed)

    @property
    def num_labels(self) -> int:
        """Labels of a pair."""
        return self.fc_dims[-1] if self.fc_dims else 1

    @property
    def label(self) -> int | None:
        """The class that ranking goes by; ``None`` for a head with one label."""
        return self._label

    @label.setter
    def label(self, value: int | None) -> None:
        check_label(type(self).__name__, value, self.num_labels)
        self._label = value

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add the scores of a batch of pairs; a batch of texts is left as it is.

        Args:
            features: With ``sentence_embedding``: for B pairs ``(2 B, D)``, the first sentences before the
                second ones.
            **kwargs: Ignored.

        Returns:
            The features; for pairs with ``scores (B, C)``.
        """
        count = features.get(PAIRS)
        if count is None:
            return features
        vectors = features["sentence_embedding"]
        return {**features, "scores": self.score(vectors[:count], vectors[count:])}

    def score(self, u: Tensor, v: Tensor) -> Tensor:
        """Score pairs of vectors.

        Args:
            u: Vectors of the first sentences, shape ``(B, D)``.
            v: Of the second ones, the same shape.

        Returns:
            Logits, float32, shape ``(B, C)``; gradients reach both vectors and the weights.

        Raises:
            ShapeError: If the shapes do not fit.
        """
        self._check_vectors("u", u, len(u))
        self._check_vectors("v", v, len(u))
        u, v = u.float(), v.float()
        if self.kind == "dot":
            return self._score_rest((u * v).sum(dim=-1, keepdim=True), 0)
        scores = self._score_rest(build_pair_features(u, v), 0)
        return (scores + self._score_rest(build_pair_features(v, u), 0)) / 2 if self.symmetric else scores

    def score_all(self, queries: Tensor, documents: Tensor, chunk_size: int | None = None) -> Tensor:
        """Score every query against every document, exactly as :meth:`score` would, for half of the products.

        Args:
            queries: First sentences, shape ``(B, D)``.
            documents: Second sentences, shape ``(N, D)``.
            chunk_size: Documents read at once; ``None`` takes about 8 MB of them.

        Returns:
            Logits, float32, shape ``(B, N, C)``.

        Raises:
            ArgumentError: If ``chunk_size`` is no positive integer.
            ShapeError: If the widths do not fit.
        """
        self._check_vectors("queries", queries, len(queries))
        self._check_vectors("documents", documents, len(documents))
        check_count(f"{type(self).__name__}.score_all", "chunk_size", chunk_size)
        queries = queries.float()
        chunks = documents.split(chunk_size or max(1, _CHUNK_VALUES // self.embedding_dimension))
        parts = [self._score_chunk(queries, chunk.float()) for chunk in chunks]
        return torch.cat(parts, dim=1)

    def _score_chunk(self, queries: Tensor, documents: Tensor) -> Tensor:
        if not len(queries) or not len(documents):
            return queries.new_zeros(len(queries), len(documents), self.num_labels)
        if self.kind == "dot":
            return self._score_rest((queries @ documents.T)[..., None], 0)
        first: Any = self.layers[0]
        weights = [first.weight.float()]
        if self.symmetric:
            of_u, of_v, *rest = weights[0].split(self.embedding_dimension, dim=1)
            weights.append(torch.cat([of_v, of_u, *rest], dim=1))
        rows = []
        for query in queries:
            hidden = [score_first_layer(query, documents, weight, first.bias.float()) for weight in weights]
            scores = [self._finish(values) for values in hidden]
            rows.append(torch.stack(scores).mean(dim=0) if self.symmetric else scores[0])
        return torch.stack(rows)

    def _finish(self, hidden: Tensor) -> Tensor:
        """Go on behind the first layer."""
        return self._score_rest(hidden.relu(), 1) if len(self.layers) > 1 else hidden

    def _score_rest(self, values: Tensor, start: int) -> Tensor:
        """Run the layers from ``start`` on, with a ReLU between any two."""
        for place in range(start, len(self.layers)):
            layer: Any = self.layers[place]
            values = values.relu() if place > start else values
            values = linear(values, layer.weight.float(), layer.bias.float())
        return values

    def _check_vectors(self, name: str, vectors: Tensor, count: int) -> None:
        expected = (count, self.embedding_dimension)
        if tuple(vectors.shape) != expected:
            raise bad_shape(type(self).__name__, name, "B, D", expected, tuple(vectors.shape))

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write configuration and weights."""
        self.save_config(output_path)
        if self.fc_dims:
            self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, **kwargs: Any) -> DSEPairHead:
        """Read a saved module; see ``Module.load``."""
        hub = _take_hub_options(kwargs)
        module = cls(**cls.load_config(model_name_or_path, **hub))
        if module.fc_dims:
            cls.load_torch_weights(model_name_or_path, model=module, **hub)
        return module


def draw_weights(layers: Iterable[nn.Module], seed: int) -> None:
    """Draw the weights of linear layers anew, as ``nn.Linear`` does, from a generator of their own.

    Args:
        layers: The layers.
        seed: Of the generator.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in layers:
            for parameter in layer.parameters():
                drawn = torch.rand(parameter.shape, generator=generator) * 2 - 1
                parameter.copy_(drawn * layer.in_features**-0.5)  # type: ignore[operator]


def _take_hub_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Pick what says where the files of a module are."""
    names = ("subfolder", "token", "cache_folder", "revision", "local_files_only")
    return {name: kwargs[name] for name in names if name in kwargs}
