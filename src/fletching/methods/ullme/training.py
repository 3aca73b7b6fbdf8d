"""The sentence-transformers trainer, for a model of which only adapters are trained."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch.utils.data import RandomSampler

from fletching.errors import bad_checkpoint
from fletching.methods.ullme.data import CLUSTER

__all__ = ["TRAINED_FILE", "AdapterTrainer", "ClusterBatchSampler", "choose_sampler", "has_full_batch"]

TRAINED_FILE = "trained.safetensors"
"""What a checkpoint holds of the model."""


class AdapterTrainer(SentenceTransformerTrainer):
    """Writes checkpoints that hold what is trained, and goes on from these.

    A checkpoint of sentence-transformers holds one adapter, the active one; a model of GenC has two. The
    weights that are not trained are in the base model anyway.
    """

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        trained = {name: value.detach().contiguous() for name, value in self._find_trained()}
        save_file(trained, folder / TRAINED_FILE)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        path = Path(checkpoint_path) / TRAINED_FILE
        if not path.is_file():
            raise bad_checkpoint(
                checkpoint_path, f"holds no {TRAINED_FILE}", "Was it written by this recipe?"
            )
        saved, trained = load_file(path), dict(self._find_trained())
        shapes = [{name: value.shape for name, value in each.items()} for each in (saved, trained)]
        if shapes[0] != shapes[1]:
            remedy = "Go on with the settings that the run began with"
            raise bad_checkpoint(checkpoint_path, "holds other weights than are trained now", remedy)
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(saved[name])

    def _find_trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        model = getattr(self.model, "_orig_mod", self.model)
        return ((name, value) for name, value in model.named_parameters() if value.requires_grad)


class ClusterBatchSampler(DefaultBatchSampler):
    """Draws the rows of a batch from one cluster, which the column ``cluster`` names.

    What is left of a cluster after its last full batch is a smaller batch, or with ``drop_last`` is left out
    of the epoch. Which rows are left out changes from epoch to epoch.

    Args:
        dataset: With the column ``cluster``.
        batch_size: Rows of a batch.
        drop_last: Whether to leave smaller batches out.
        valid_label_columns: Not used.
        generator: Owner of the randomness; ``None`` makes one.
        seed: Of the first epoch.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        drop_last: bool,
        valid_label_columns: list[str] | None = None,
        generator: torch.Generator | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(dataset, batch_size, drop_last, valid_label_columns, generator, seed)
        self.generator = torch.Generator() if generator is None else generator
        self.groups: dict[str, list[int]] = defaultdict(list)
        for index, cluster in enumerate(dataset[CLUSTER]):
            self.groups[cluster].append(index)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the places of the rows of each batch, clusters mixed."""
        assert self.generator is not None
        self.generator.manual_seed(self.seed + self.epoch)
        batches = []
        for indices in self.groups.values():
            order = torch.randperm(len(indices), generator=self.generator).tolist()
            shuffled = [indices[place] for place in order]
            starts = range(0, len(shuffled), self.batch_size)
            batches += [shuffled[start : start + self.batch_size] for start in starts]
        if self.drop_last:
            batches = [batch for batch in batches if len(batch) == self.batch_size]
        for place in torch.randperm(len(batches), generator=self.generator).tolist():
            yield batches[place]

    def __len__(self) -> int:
        """Batches of an epoch."""
        counts = [len(indices) for indices in self.groups.values()]
        if self.drop_last:
            return sum(count // self.batch_size for count in counts)
        return sum(-(-count // self.batch_size) for count in counts)


def choose_sampler(dataset: Dataset, **options: Any) -> DefaultBatchSampler:
    """Draw batches by cluster where a data set has clusters, else at random.

    Args:
        dataset: What to draw from.
        **options: As the trainer gives them.

    Returns:
        The sampler.
    """
    if CLUSTER in dataset.column_names:
        return ClusterBatchSampler(dataset, **options)
    return DefaultBatchSampler(RandomSampler(dataset, generator=options["generator"]), **options)


def has_full_batch(dataset: Dataset, batch_size: int) -> bool:
    """Say whether anything of a data set is left where smaller batches are left out.

    Args:
        dataset: With or without clusters.
        batch_size: Rows of a batch.

    Returns:
        Whether there is a full batch.
    """
    if CLUSTER not in dataset.column_names:
        return len(dataset) >= batch_size
    return max(Counter(dataset[CLUSTER]).values()) >= batch_size
