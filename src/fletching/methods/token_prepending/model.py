"""TokenPrependingEmbedder: what users call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn

from fletching.errors import bad_argument, bad_checkpoint
from fletching.methods.token_prepending.modules import TokenPrependingTransformer
from fletching.models.embedder import Embedder
from fletching.models.hub import spread_hub_options


class TokenPrependingEmbedder(Embedder):
    """Token Prepending (Fu et al., ACL 2025, arXiv 2412.11556): any decoder as an embedder, without training.

    A sentence is put into a prompt such as ``This sentence : <PST> "..." means in one word:"``. Before the
    layers ``start`` to ``stop - 1`` the state of the placeholder ``<PST>`` is replaced by that of the last
    token, so that the sentence's tokens see a summary of the whole sentence. The embedding is the last
    token's state at ``output_layer``; the layers after it are not computed. Embeddings are not of length one;
    compare them by cosine.

    Settings that are left out are the published ones for the models of the paper, else our rule of thumb; of
    a save, they are the saved ones. ``settings.source`` says which.

    Args:
        model_name_or_path: A save of this class, or folder or hub id of any causal language model of
            transformers.
        prompt: A name of ``PROMPTS``: ``"prompteol"``, ``"cot"``, ``"ke"``, or ``"metaeol"``, the mean over
            eight prompts; with ``plain_`` in front, the same without the placeholder. Or a prompt of your
            own, with ``*sent 0*`` for the sentence and ``<PST>`` before it, or several.
        start: First layer before which the last token's state is copied, counted from 0; at least 1.
        stop: First layer before which it no longer is; equal to ``start``, it is copied nowhere, although the
            placeholder is there.
        output_layer: k > 0 is the output of the k-th layer, before the final norm; -1 the last layer's after
            the final norm; -2 the output of the layer before the last.
        seed: Decides the placeholder's vector, which is saved with the model; ``None`` for 3407.
        pst_init: ``"normal"`` draws that vector, as the reference code; ``"mean"`` (ours) is the mean of the
            embedding table; ``None`` for ``"normal"``.
        clean_text: Whether to clean sentences as the reference code does; ``None`` for yes.
        max_sentence_tokens: Longer sentences are cut; ``None`` for 500, as in the reference code.
        **kwargs: Arguments of :class:`~fletching.models.Embedder`.

    Raises:
        ArgumentError: If an argument is outside its domain, or the model is no decoder.
        CheckpointError: If the folder holds a model of sentence-transformers of another kind.
    """

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        prompt: str | Sequence[str] | None = None,
        start: int | None = None,
        stop: int | None = None,
        output_layer: int | None = None,
        seed: int | None = None,
        pst_init: str | None = None,
        clean_text: bool | None = None,
        max_sentence_tokens: int | None = None,
        **kwargs: Any,
    ) -> None:
        options = {
            "prompt": prompt,
            "start": start,
            "stop": stop,
            "output_layer": output_layer,
            "seed": seed,
            "pst_init": pst_init,
            "clean_text": clean_text,
            "max_sentence_tokens": max_sentence_tokens,
        }
        self._options: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        super().__init__(None if model_name_or_path is None else str(model_name_or_path), **kwargs)
        if not len(self) or not isinstance(self[0], TokenPrependingTransformer):
            problem = "it is a finished model of sentence-transformers"
            remedy = "Pass the decoder that it was made of"
            raise bad_checkpoint(str(model_name_or_path), problem, remedy)
        if self._options:  # a save, opened with other settings
            self._change_settings(self._options)
            self._options = {}

    @property
    def network(self) -> TokenPrependingTransformer:
        """The module that runs the decoder."""
        network: Any = self[0]
        return network

    @property
    def settings(self) -> Any:
        """The settings in use, a ``TokenPrependingConfig``."""
        return self.network.settings

    def _count_lost(self, texts: list[str], prompt: str) -> list[int]:
        return self.network.tokenize_sentences([prompt + text for text in texts])[1]

    def _inference(self, inputs: list[Any], *, output_value: str | None, **kwargs: Any) -> Any:
        if output_value == "token_embeddings" and len(self.settings.prompt) > 1:
            owner = f"{type(self).__name__}.encode"
            domain = "'sentence_embedding' for a model with several prompts"
            raise bad_argument(owner, "output_value", domain, output_value)
        return super()._inference(inputs, output_value=output_value, **kwargs)

    def _change_settings(self, options: dict[str, Any]) -> None:
        network = self.network
        settings = {**vars(network.settings)}
        del settings["source"]
        if "prompt" in options:  # what was saved belongs to the other prompt
            settings |= {"start": None, "stop": None, "output_layer": None}
        saved = network.placeholder
        network.configure(**{**settings, **options})
        if not options.keys() & {"seed", "pst_init"}:
            network.placeholder = saved
        while len(self) > 1:
            del self[len(self) - 1]
        for module in _build_pooling(network):
            self.append(module)

    def _load_default_modules(
        self, model_name_or_path: str, **kwargs: Any
    ) -> tuple[list[nn.Module], dict[str, Any]]:
        """Start from a causal language model."""
        network = TokenPrependingTransformer(
            model_name_or_path, backend=self.backend, **spread_hub_options(**kwargs), **self._options
        )
        self._options = {}
        return [network, *_build_pooling(network)], {}


def _build_pooling(network: TokenPrependingTransformer) -> list[nn.Module]:
    """Pool by the last token; a module with several prompts has pooled already."""
    if len(network.settings.prompt) > 1:
        return []
    return [Pooling(network.get_embedding_dimension(), "lasttoken")]
