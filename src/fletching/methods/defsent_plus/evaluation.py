"""What training is judged by: similar sentences, isotropy, entries found by their definitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.util import pairwise_cos_sim
from torch import Tensor

from fletching.data import SentencePair, read_sts
from fletching.errors import bad_argument
from fletching.methods.defsent_plus.functional import measure_isotropy
from fletching.metrics import spearman
from fletching.models.inputs import check_texts

__all__ = [
    "DefSentPlusEvaluator",
    "IsotropyEvaluator",
    "measure_definition_ranks",
    "read_sts_sets",
]

_CUTS = (1, 3, 10)  # DefSent's table


def measure_definition_ranks(
    scores: Callable[[Sequence[int]], Tensor], labels: Sequence[int], *, batch_size: int = 256
) -> dict[str, float]:
    """Measure how well definitions find their entries: DefSent's task from definition to word.

    An entry ranks behind all that score more, and in the middle of those that score the same.

    Args:
        scores: Given places of definitions, returns their scores of all entries, shape ``(B, V)``.
        labels: The entry of each definition.
        batch_size: Definitions at once.

    Returns:
        ``"mrr"``, ``"top1"``, ``"top3"``, ``"top10"``: means over definitions.

    Raises:
        ArgumentError: If there is no definition.

    Example:
        >>> table = torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1]])
        >>> measure_definition_ranks(lambda places: table[list(places)], [0, 1])
        {'mrr': 0.75, 'top1': 0.5, 'top3': 1.0, 'top10': 1.0}
    """
    if not len(labels):
        raise bad_argument("measure_definition_ranks", "labels", "of at least one definition", labels)
    ranks: list[float] = []
    for first in range(0, len(labels), batch_size):
        places = range(first, min(first + batch_size, len(labels)))
        rows = scores(places)
        own = rows[torch.arange(len(places)), torch.as_tensor(labels[first : places.stop])][:, None]
        ties = (rows == own).sum(dim=1) - 1
        ranks += (1 + (rows > own).sum(dim=1) + ties / 2).tolist()
    found = np.array(ranks)
    tops = {f"top{cut}": float((found <= cut).mean()) for cut in _CUTS}
    return {"mrr": float((1 / found).mean()), **tops}


def read_sts_sets(paths: Sequence[str | Path]) -> dict[str, list[SentencePair]]:
    """Read files of sentence pairs with scores.

    Args:
        paths: Files, see ``fletching.data.read_sts``.

    Returns:
        Pairs by the name of their file without its endings; the name of the folder stands in front where two
        files have one name.

    Raises:
        DataError: If a file is missing or malformed.
    """
    found: dict[str, list[SentencePair]] = {}
    for path in map(Path, paths):
        name = path.name.split(".")[0]
        name = f"{path.parent.name}_{name}" if name in found else name
        found[name] = list(read_sts(path))
    return found


class DefSentPlusEvaluator(BaseEvaluator):
    """Spearman correlation of cosines with people's scores, of each set of sentence pairs, and their mean.

    Args:
        sets: Pairs by the name of their set, as `read_sts_sets` returns them.
        name: Prefix of the metrics.

    Raises:
        ArgumentError: If there is no set, or one of fewer than two pairs.
    """

    def __init__(self, sets: dict[str, list[SentencePair]], name: str = "sts") -> None:
        super().__init__()
        if not sets or any(len(pairs) < 2 for pairs in sets.values()):
            raise bad_argument("DefSentPlusEvaluator", "sets", "sets of at least two pairs", list(sets))
        self.sets = sets
        self.name = name
        self.primary_metric: str = f"{name}_mean"

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Compare the sentences of all pairs; one that stands in several is embedded once.

        Args:
            model: The embedder.
            output_path: Not used: results go to the trainer's log and to the model card.
            epoch: Passed on to the model card.
            steps: Passed on to the model card.

        Returns:
            The metrics; a model that compares all pairs of a set alike gets 0 there.
        """
        every = (pair for pairs in self.sets.values() for pair in pairs)
        texts = dict.fromkeys(text for pair in every for text in (pair.sentence1, pair.sentence2))
        places = {text: place for place, text in enumerate(texts)}
        vectors = torch.as_tensor(model.encode(list(texts), convert_to_numpy=True))
        metrics = {}
        for set_name, pairs in self.sets.items():
            sides = [[places[pair.sentence1] for pair in pairs], [places[pair.sentence2] for pair in pairs]]
            cosines = pairwise_cos_sim(*(vectors[side] for side in sides)).double().numpy()
            gold = np.array([pair.score for pair in pairs])
            metrics[f"{self.name}_{set_name}"] = spearman(gold, cosines) if np.ptp(cosines) else 0.0
        metrics[self.primary_metric] = float(np.mean(list(metrics.values())))
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics


class IsotropyEvaluator(BaseEvaluator):
    """How evenly a model's sentence vectors fill their space, see `measure_isotropy`.

    Args:
        texts: What is embedded, at least two.
        name: Prefix of the metrics.

    Raises:
        ArgumentError: If there are fewer than two texts.
    """

    def __init__(self, texts: Sequence[str], name: str = "definitions") -> None:
        super().__init__()
        self.texts = check_texts("IsotropyEvaluator", "texts", texts)
        if len(self.texts) < 2:
            raise bad_argument("IsotropyEvaluator", "texts", "at least two texts", self.texts)
        self.name = name
        self.primary_metric: str = f"{name}_mean_cosine"
        self.greater_is_better = False

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Embed and measure.

        Args:
            model: The embedder.
            output_path: Not used: results go to the trainer's log and to the model card.
            epoch: Passed on to the model card.
            steps: Passed on to the model card.

        Returns:
            The metrics.
        """
        vectors = torch.as_tensor(model.encode(self.texts, convert_to_numpy=True))
        metrics = {f"{self.name}_{name}": value for name, value in measure_isotropy(vectors).items()}
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics
