"""GenerativeReranker: the language model's own likelihood of a passage, after the query, as its score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from fletching.errors import bad_checkpoint
from fletching.methods.ullme.likelihood import LikelihoodTransformer
from fletching.methods.ullme.model import LLMEmbedder
from fletching.models.batching import Row
from fletching.models.reranker import Reranker

_CUT_BORDER = 8  # a row that was cut may be a few tokens shorter than the longest: its border tokenizes anew


class GenerativeReranker(Reranker):
    """Ranks passages by how likely a causal language model finds them after the query.

    The score is ``s_gen(q, p) = 1/|p| sum_t log P(p_t | q, p_<t)`` of ULLME (Man et al., EMNLP 2024, arXiv
    2408.03402), the mean over the passage's own tokens; it is 0 at most, and ``exp(s_gen)`` is the score of
    the reference code. Attention is causal. ``prompt=`` of a call is the instruction of the template.

    Args:
        model_name_or_path: A save of this class or of :class:`LLMEmbedder`; a loaded ``LLMEmbedder``, whose
            weights it shares; or folder or hub id of a causal language model.
        template: As for :class:`LLMEmbedder`.
        generation_template: As for it.
        max_seq_length: Longest row in tokens; default 512. A query gets at most half of it, or what the
            passage leaves.
        **kwargs: Arguments of :class:`~fletching.models.Reranker`.

    Raises:
        ArgumentError: If an argument is outside its domain, or the model is no causal language model with a
            head.
        CheckpointError: If the folder holds a model of sentence-transformers of another kind.
    """

    usage_example = 'print(model.rank("What is fletching?", ["Feathers on an arrow.", "A dance."]))'

    def __init__(
        self,
        model_name_or_path: str | Path | LLMEmbedder | None = None,
        *,
        template: str | None = None,
        generation_template: str | None = None,
        max_seq_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        options = {
            "template": template,
            "generation_template": generation_template,
            "max_seq_length": max_seq_length,
        }
        self._options: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        if isinstance(model_name_or_path, LLMEmbedder):
            kwargs = {"device": str(model_name_or_path.device), **kwargs}
            kwargs["modules"] = [LikelihoodTransformer.share(model_name_or_path.network)]
            model_name_or_path = None
        name = None if model_name_or_path is None else str(model_name_or_path)
        super().__init__(name, **kwargs)
        if not len(self) or not isinstance(self[0], LikelihoodTransformer):
            problem = "it is a finished model of sentence-transformers"
            raise bad_checkpoint(str(name), problem, "Pass the language model that it was made of")
        self._change(self._options)
        self._options = {}

    @property
    def network(self) -> LikelihoodTransformer:
        """The module that holds the language model, as ``.model``."""
        network: Any = self[0]
        return network

    @property
    def num_labels(self) -> int:
        """One score per pair."""
        return 1

    def get_default_activation_fn(self) -> nn.Module:
        """Leave log-likelihoods as they are.

        Returns:
            The activation of a model that names none.
        """
        return nn.Identity()

    def is_full(self, row: Row) -> bool:
        """Say whether a tokenized row may have lost tokens.

        Args:
            row: One row without padding.

        Returns:
            True if it is about as long as rows can be.
        """
        return row["input_ids"].numel() >= self.network.max_seq_length - _CUT_BORDER

    def _change(self, options: dict[str, Any]) -> None:
        network = self.network
        if options.keys() & {"template", "generation_template"}:
            template = options.get("template", network.template_name)
            network.use_templates(template, options.get("generation_template", network.generation_template))
        if "max_seq_length" in options:
            network.max_seq_length = options["max_seq_length"]

    def _load_default_modules(
        self, model_name_or_path: str, **kwargs: Any
    ) -> tuple[list[nn.Module], dict[str, Any]]:
        """Start from a causal language model, or from that in a save of another kind."""
        network = LikelihoodTransformer.open_base(
            model_name_or_path, self._options, backend=self.backend, **kwargs
        )
        return [network], {}
