"""ElasticEvaluator: any evaluator of sentence-transformers at every depth and width, from one pass."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.util import quantize_embeddings

from fletching.errors import bad_argument
from fletching.methods.two_d_matryoshka.depth_vectors import cut_vectors, has_unit_length
from fletching.methods.two_d_matryoshka.sizes import Size, open_elastic, plan_sizes

__all__ = ["ElasticEvaluator"]

_OWNER = "ElasticEvaluator"


class ElasticEvaluator(BaseEvaluator):
    """Runs an evaluator of sentence-transformers at every depth and width of a model.

    Made for training: it goes where an evaluator goes, ``SentenceTransformerTrainer(evaluator=...)``. The
    model encodes each text once, for all sizes; the vectors of all texts at all depths are in memory while it
    works.

    Args:
        evaluator: Such as ``EmbeddingSimilarityEvaluator`` or ``InformationRetrievalEvaluator``: one that
            encodes texts by ``encode``, ``encode_query`` or ``encode_document``.
        layers: As for `frontier`.
        dims: As for `frontier`.
        write_csv: Whether to write the scores of each call into the folder that the trainer hands over.

    Raises:
        ArgumentError: If ``evaluator`` is none.
    """

    def __init__(
        self,
        evaluator: BaseEvaluator,
        *,
        layers: Sequence[int] | None = None,
        dims: Sequence[int] | None = None,
        write_csv: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(evaluator, BaseEvaluator):
            raise bad_argument(_OWNER, "evaluator", "an evaluator of sentence-transformers", evaluator)
        self.evaluator = evaluator
        self.layers = layers
        self.dims = dims
        self.write_csv = write_csv
        self.name = str(getattr(evaluator, "name", ""))
        self.greater_is_better = evaluator.greater_is_better
        self.metric = "score"
        """What the evaluator calls its main score; known after the first call."""

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Evaluate all sizes.

        Args:
            model: The model.
            output_path: Folder for the CSV file; ``None`` writes none.
            epoch: Passed on to the model card and the file.
            steps: Likewise.

        Returns:
            ``<metric>_<n>_layers_<d>_dims`` -> the evaluator's main score at each size, and
            ``<metric>_mean``, the mean over all of them, by which a trainer chooses the best checkpoint.

        Raises:
            ArgumentError: If the model has no such size.
        """
        scores = self.measure(model)
        metrics = {f"{self.metric}_{n}_layers_{d}_dims": score for (n, d), score in scores.items()}
        self.primary_metric = f"{self.metric}_mean"
        metrics[self.primary_metric] = sum(scores.values()) / len(scores)
        if output_path is not None and self.write_csv:
            self._append(Path(output_path), scores, epoch, steps)
        if hasattr(model, "model_card_data"):
            self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics

    def measure(self, model: Any) -> dict[Size, float]:
        """Evaluate all sizes.

        Args:
            model: The model.

        Returns:
            (layers, dimensions) -> the evaluator's main score.

        Raises:
            ArgumentError: If the model has no such size.
        """
        model = open_elastic(_OWNER, model)
        sizes = plan_sizes(_OWNER, model, self.layers, self.dims)
        memory = _Memory(model, sorted({size[0] for size in sizes}))
        scores = {}
        for size in sizes:
            sized: Any = _SizedModel(model, memory, size)
            found = self.evaluator(sized)
            if isinstance(found, dict):
                self.metric = self.evaluator.primary_metric or next(iter(found))
                scores[size] = float(found[self.metric])
            else:
                scores[size] = float(found)
        return scores

    def get_config_dict(self) -> dict[str, Any]:
        """Say what was asked for, for the model card."""
        return {"layers": self.layers, "dims": self.dims, **self.evaluator.get_config_dict()}

    def _append(self, folder: Path, scores: dict[Size, float], epoch: int, steps: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"elastic_evaluation_{self.name or 'unnamed'}_results.csv"
        is_new = not path.is_file()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(["epoch", "steps", "layers", "dims", "score"])
            writer.writerows([epoch, steps, *size, score] for size, score in scores.items())


class _Memory:
    """The vectors, at all depths, of every text that was asked for so far."""

    def __init__(self, model: Any, layers: Sequence[int]) -> None:
        self._model = model
        self._layers = list(layers)
        self._found: dict[tuple[str, str | None, str | None], dict[str, NDArray[np.float32]]] = {}

    def look_up(
        self, texts: Sequence[str], depth: int, side: str, prompt_name: str | None, prompt: str | None
    ) -> NDArray[np.float32]:
        known = self._found.setdefault((side, prompt_name, prompt), {})
        missing = list(dict.fromkeys(text for text in texts if text not in known))
        if missing:
            found = self._model.encode_sizes(
                missing,
                self._layers,
                side=side,
                truncate_dim=self._model.width,
                prompt_name=prompt_name,
                prompt=prompt,
            )
            stacked = np.stack([found[layer] for layer in self._layers], axis=1)  # (B, L, D)
            known.update(zip(missing, stacked, strict=True))
        place = self._layers.index(depth)
        return np.stack([known[text][place] for text in texts])


class _NoCard:
    """Takes the scores of single sizes, of which the model card hears through the evaluator of all."""

    def set_evaluation_metrics(self, *args: Any, **kwargs: Any) -> None:
        pass


class _SizedModel:
    """A model of one size, as evaluators see it; vectors come from the memory."""

    model_card_data = _NoCard()

    def __init__(self, model: Any, memory: _Memory, size: Size) -> None:
        self._model = model
        self._memory = memory
        self._size = size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, inputs: Any, *args: Any, **options: Any) -> Any:
        return self._encode("text", inputs, *args, **options)

    def encode_query(self, inputs: Any, *args: Any, **options: Any) -> Any:
        return self._encode("query", inputs, *args, **options)

    def encode_document(self, inputs: Any, *args: Any, **options: Any) -> Any:
        return self._encode("document", inputs, *args, **options)

    def _encode(
        self,
        side: str,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        *,
        precision: Any = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        **options: Any,
    ) -> Any:
        """Answer as ``SentenceTransformer.encode`` does; the memory decides on batches."""
        del batch_size, show_progress_bar
        if options:
            names = ", ".join(sorted(options))
            raise bad_argument(_OWNER, "evaluator", "one that encodes texts in the usual way", names)
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        depth, dim = self._size
        found = self._memory.look_up(texts, depth, side, prompt_name, prompt)
        unit = normalize_embeddings or has_unit_length(self._model)
        vectors: Any = cut_vectors(found, min(dim, truncate_dim or dim), unit_length=unit)
        if precision not in (None, "float32"):
            vectors = torch.as_tensor(quantize_embeddings(vectors, precision=precision))
        if isinstance(inputs, str):
            vectors = vectors[0]
        if convert_to_tensor:
            return vectors.to(self._model.device)
        if convert_to_numpy:
            return vectors.numpy()
        return vectors if isinstance(inputs, str) else list(vectors)
