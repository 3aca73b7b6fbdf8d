"""DefSentPlusEmbedder: what users call."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import load_file_path
from torch import nn

from fletching.errors import FidelityWarning, bad_argument, bad_checkpoint, bad_choice
from fletching.methods.defsent_plus.checkpoints import METHOD, find_published
from fletching.methods.defsent_plus.config import POOLINGS, TEMPLATE, split_template
from fletching.methods.defsent_plus.dictionary import (
    DICTIONARY_FOLDER,
    ENTRIES_FILE,
    HEAD_FILE,
    ReverseDictionary,
)
from fletching.methods.defsent_plus.entries import EntryEmbeddings, embed_bare
from fletching.methods.defsent_plus.functional import measure_isotropy
from fletching.methods.defsent_plus.modules import MaskPooling, PromptTransformer
from fletching.models.embedder import Embedder
from fletching.models.hub import spread_hub_options
from fletching.models.inputs import check_positive, check_text, check_texts
from fletching.models.marks import MARK, read_mark

logger = logging.getLogger(__name__)

_OWNER = "DefSentPlusEmbedder"
_HUB_OPTIONS = ("token", "cache_folder", "revision", "local_files_only")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
)


class DefSentPlusEmbedder(Embedder):
    """DefSent+ (Liu, arXiv 2405.16153) and DefSent (Tsukagoshi et al., ACL 2021): taught from a dictionary.

    Opens the authors' checkpoints of both, with the tokenizer of the backbone where there is none; saves of
    this class; and, to start from, any encoder of transformers or any model of sentence-transformers that
    begins with one. The embedding is pooled from the last hidden states, without a projection, and is not of
    length one: compare by cosine.

    With the pooling ``"cls"`` or ``"mean"`` the model consists of modules of sentence-transformers and opens
    there without this library. A model that was trained here has kept its projection and its entries, and
    names entries by their definitions: :meth:`nearest_entries`.

    Args:
        model_name_or_path: Folder or hub id.
        pooling: ``"cls"``, ``"mean"`` (special tokens included), ``"prompt"`` (the state at the mask of
            ``template``), or ``"max"`` (DefSent only). Whatever stands after the transformer in the
            checkpoint is replaced. ``None`` keeps what is there; without files of sentence-transformers, it
            takes what the name of a published checkpoint tells, else ``"mean"``.
        template: For the pooling ``"prompt"``: text with ``{sentence}`` and, after it, ``{mask}``. ``None``
            for the saved one, else ``This sentence : "{sentence}" means {mask} . `` with the space at its
            end.
        backbone: Folder or hub id of the tokenizer, for a checkpoint without one; ``None`` for the one that
            belongs to a published checkpoint.
        **kwargs: Arguments of :class:`~fletching.models.Embedder`.

    Raises:
        ArgumentError: If an argument is outside its domain, or the tokenizer has no mask token.
        CheckpointError: If the checkpoint has no tokenizer and nothing tells which one it needs, or does not
            begin with a transformer.
    """

    usage_example = 'print(model.similarity(model.encode("an arrow"), model.encode("a dart")))'

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        pooling: str | None = None,
        template: str | None = None,
        backbone: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        if pooling is not None and pooling not in POOLINGS:
            raise bad_choice(_OWNER, "pooling", POOLINGS, pooling)
        if template is not None:
            split_template(template)
        self._start: dict[str, Any] = {"pooling": pooling, "template": template, "backbone": backbone}
        self._mark: dict[str, Any] = {}
        self.dictionary: ReverseDictionary | None = None
        location = None if model_name_or_path is None else str(model_name_or_path)
        super().__init__(location, **kwargs)
        if not len(self) or not isinstance(self[0], Transformer):
            problem = "it does not begin with a transformer, whose hidden states are pooled"
            raise bad_checkpoint(location or "(modules)", problem)
        if template is not None and (pooling or self.pooling) != "prompt":
            domain = "left out unless the pooling is 'prompt'"
            raise bad_argument(_OWNER, "template", domain, template)
        if pooling is not None or template is not None:
            self._set_pooling(pooling or "prompt", template)
        if location is not None and self._mark.get("dictionary"):
            hub = {name: kwargs[name] for name in _HUB_OPTIONS if kwargs.get(name) is not None}
            self.dictionary = _load_dictionary(location, hub)

    # --- pooling ---

    @property
    def pooling(self) -> str | None:
        """How sentences are pooled; ``None`` if a module that is not known here does it."""
        for module in self:
            if isinstance(module, MaskPooling):
                return "prompt"
            if isinstance(module, Pooling) and isinstance(module.pooling_mode, str):
                return module.pooling_mode
        return None

    @pooling.setter
    def pooling(self, pooling: str) -> None:
        if pooling not in POOLINGS:
            raise bad_choice(_OWNER, "pooling", POOLINGS, pooling)
        self._set_pooling(pooling, None)

    @property
    def template(self) -> str | None:
        """What sentences are put into; ``None`` unless the pooling is ``"prompt"``."""
        return self[0].template if isinstance(self[0], PromptTransformer) else None

    def _set_pooling(self, pooling: str, template: str | None) -> None:
        """Put the modules of a pooling in place; the network and its tokenizer stay the same objects."""
        network: Any = self[0]
        if pooling == "prompt":
            chosen = template or self.template or TEMPLATE
            if self.template != chosen:
                self[0] = network = PromptTransformer.wrap(network, template=chosen)
        elif isinstance(network, PromptTransformer):
            self[0] = network = network.unwrap()
        replaced = [type(module).__name__ for module in [*self][2:]]
        if replaced:
            logger.info("%s: %s of the checkpoint left out.", _OWNER, ", ".join(replaced))
        device = self.device
        while len(self) > 1:
            del self[len(self) - 1]
        self.append(_build_pooling(network, pooling).to(device))

    # --- reverse dictionary ---

    def attach_head(self, dense: nn.Linear, *, activation: str, entries: EntryEmbeddings) -> None:
        """Keep the projection and the entries of a training, so that :meth:`nearest_entries` works.

        They are saved with the model and change no embedding.

        Args:
            dense: W and b; copied.
            activation: What follows it: ``"tanh"`` or ``"gelu"``.
            entries: What definitions were projected on.

        Raises:
            ArgumentError: If an argument is outside its domain, or the model's pooling is not ``"cls"`` or
                ``"mean"``.
            ShapeError: If the shapes do not fit.
        """
        if not isinstance(dense, nn.Linear) or dense.bias is None:
            raise bad_argument(f"{_OWNER}.attach_head", "dense", "a linear layer with a bias", dense)
        self.dictionary = ReverseDictionary(
            dense.weight, dense.bias, activation=activation, pooling=str(self.pooling), entries=entries
        )

    def nearest_entries(self, text: str | Sequence[str], *, top_k: int = 10, batch_size: int = 32) -> Any:
        """Name the entries that a definition may belong to, as in training.

        The text is read bare and pooled as in training, whatever the pooling is now.

        Args:
            text: A definition, or several.
            top_k: Entries for each; fewer if the dictionary has fewer.
            batch_size: Texts read at once.

        Returns:
            A list of :class:`EntryHit`, the best first; for several texts, a list of such lists.

        Raises:
            ArgumentError: If an argument is outside its domain, or the model has kept no dictionary.
            FletchingError: If the model computes NaN.
        """
        owner = f"{_OWNER}.nearest_entries"
        check_positive(owner, "top_k", top_k)
        check_positive(owner, "batch_size", batch_size)
        single = isinstance(text, str)
        texts = [check_text(owner, "text", text)] if single else check_texts(owner, "text", text)
        if self.dictionary is None:
            domain = "one that has kept its projection and entries"
            remedy = "Train it with DefSentPlusRecipe, or attach them with attach_head()"
            raise bad_argument(owner, "model", domain, self.model_card_data.model_id or "another", remedy)
        vectors = embed_bare(self, texts, pooling=self.dictionary.pooling, batch_size=batch_size)
        hits = self.dictionary.find(vectors, top_k=top_k)
        return hits[0] if single else hits

    # --- what is read ---

    def _count_lost(self, texts: list[str], prompt: str) -> list[int]:
        network: Any = self[0]
        if isinstance(network, PromptTransformer):
            return network.tokenize_sentences([prompt + text for text in texts])[1]
        return super()._count_lost(texts, prompt)

    # --- files ---

    def save(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Write the model as sentence-transformers does, and the dictionary where there is one.

        Args:
            path: The folder.
            *args: As for ``SentenceTransformer.save``.
            **kwargs: Likewise.
        """
        super().save(path, *args, **kwargs)
        if path is not None and self.dictionary is not None:
            self.dictionary.save(Path(path) / DICTIONARY_FOLDER)

    def _parse_model_config(self, model_config: dict[str, Any]) -> None:
        super()._parse_model_config(model_config)
        self._mark = read_mark(model_config, METHOD)

    def _get_model_config(self) -> dict[str, Any]:
        mark = {"method": METHOD, "pooling": self.pooling, "dictionary": self.dictionary is not None}
        return {**super()._get_model_config(), MARK: mark}

    def _load_default_modules(
        self, model_name_or_path: str, **kwargs: Any
    ) -> tuple[list[nn.Module], dict[str, Any]]:
        """Start from an encoder of transformers; the tokenizer may be somebody else's."""
        published = find_published(model_name_or_path)
        pooling = self._start["pooling"] or (published.pooling if published else "mean")
        if pooling is None:
            pooling = "cls"
            warnings.warn(
                f"{_OWNER}: {model_name_or_path} does not say how it pools, and 'cls' is taken; say which "
                "with pooling='cls', 'mean' or 'prompt'.",
                FidelityWarning,
                stacklevel=2,
            )
        options = spread_hub_options(**kwargs)
        hub = {name: kwargs[name] for name in _HUB_OPTIONS if kwargs.get(name) is not None}
        source = self._start["backbone"]
        is_there = load_file_path(model_name_or_path, "config.json", **hub) is not None
        if source is None and is_there and not _has_tokenizer(model_name_or_path, hub):
            source = published.backbone if published else None
            if source is None:
                remedy = "Name the model that it was made of with backbone="
                raise bad_checkpoint(model_name_or_path, "it holds no tokenizer", remedy)
        if source is not None:
            logger.info("%s: the tokenizer of %s.", _OWNER, source)
            options["processor_kwargs"].pop("revision", None)  # of another repository
        network = Transformer(
            model_name_or_path,
            backend=self.backend,
            tokenizer_name_or_path=None if source is None else str(source),
            **options,
        )
        if pooling == "prompt":
            network = PromptTransformer.wrap(network, template=self._start["template"] or TEMPLATE)
        return [network, _build_pooling(network, pooling)], {}


def compare_isotropy(
    before: Any, after: Any, texts: Sequence[str] | None = None
) -> dict[str, tuple[float, float]]:
    """Measure how evenly vectors fill their space before and after.

    Args:
        before: Entry embeddings, or an embedder.
        after: Likewise, such as the entry embeddings of the next stage, or the trained model.
        texts: What embedders read, at least two; not needed for entry embeddings.

    Returns:
        Name of a measure -> its two values, see ``measure_isotropy``: a lower
        ``"mean_cosine"`` is more isotropic, a higher ``"partition_isotropy"`` and ``"iso_score"`` are.

    Raises:
        ArgumentError: If an embedder is given without texts, or there are too few vectors.

    Example:
        >>> cross = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> members = [["north"], ["east"], ["south"], ["west"]]
        >>> line = EntryEmbeddings(cross + 3, members, how="ac")
        >>> found = compare_isotropy(line, EntryEmbeddings(cross, members, how="ac"))
        >>> [round(value, 2) for value in found["mean_cosine"]]
        [0.96, -0.33]
    """
    first, last = _measure(before, texts), _measure(after, texts)
    return {name: (first[name], last[name]) for name in first}


def _measure(side: Any, texts: Sequence[str] | None) -> dict[str, float]:
    if isinstance(side, EntryEmbeddings):
        return measure_isotropy(side.vectors)
    if texts is None:
        raise bad_argument("compare_isotropy", "texts", "given, for an embedder to read", texts)
    read = check_texts("compare_isotropy", "texts", texts)
    return measure_isotropy(torch.as_tensor(side.encode(read, convert_to_numpy=True)))


def _build_pooling(network: Any, pooling: str) -> nn.Module:
    width = network.get_embedding_dimension()
    if pooling == "prompt":
        return MaskPooling(width, network.tokenizer.mask_token_id)
    return Pooling(width, pooling)


def _has_tokenizer(location: str, hub: dict[str, Any]) -> bool:
    return any(load_file_path(location, name, **hub) is not None for name in _TOKENIZER_FILES)


def _load_dictionary(location: str, hub: dict[str, Any]) -> ReverseDictionary:
    files = [
        load_file_path(location, f"{DICTIONARY_FOLDER}/{name}", **hub) for name in (HEAD_FILE, ENTRIES_FILE)
    ]
    if any(file is None for file in files):
        problem = f"its folder {DICTIONARY_FOLDER!r} lacks {HEAD_FILE} or {ENTRIES_FILE}"
        raise bad_checkpoint(location, problem, "Copy the whole folder")
    head, entries = (str(file) for file in files)
    return ReverseDictionary.load(head, entries)
