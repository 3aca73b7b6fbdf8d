"""Progressive separate training: stage after stage from the same start, on ever better entries."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fletching.data.lines import write_lines
from fletching.errors import FletchingError, bad_argument, bad_choice
from fletching.methods.defsent_plus.config import (
    ENTRY_POOLINGS,
    TRAINING_POOLINGS,
    ICAConfig,
    check_number,
)
from fletching.methods.defsent_plus.data import DefinitionSet
from fletching.methods.defsent_plus.entries import EntryEmbeddings
from fletching.methods.defsent_plus.functional import measure_isotropy
from fletching.methods.defsent_plus.losses import DefinitionProjectionLoss
from fletching.methods.defsent_plus.model import DefSentPlusEmbedder
from fletching.methods.defsent_plus.training import TrainingOptions, fit
from fletching.models.sharing import fingerprint
from fletching.training import TrainingFolder, count_processes, forget_run

__all__ = ["Evaluate", "ProgressiveSeparateTrainer", "Stage", "check_processes", "hash_definitions"]

logger = logging.getLogger(__name__)

Evaluate = Callable[[DefSentPlusEmbedder], dict[str, float]]
"""What measures a model: name -> value."""

_FREE_OPTIONS = ("save_steps", "classes_at_once")  # a run that goes on may have others
_RECORD_FILE = "stage.json"  # beside the checkpoints of a stage whose model is written
_ENTRIES_FILE = "entries.safetensors"  # beside them, too: built once
_MEASURED_ROWS = 8192  # of the entries, for their isotropy
_ENTRY_BATCH = 64
_OWNER = "ProgressiveSeparateTrainer"


@dataclass(frozen=True)
class Stage:
    """One stage of progressive separate training.

    Args:
        entry: How the vectors of entries are built: ``"ac"``, the mean of its definitions' first states, or
            ``"amp"``, the mean of their mean states.
        pooling: How a definition's vector is pooled in training and in the model that results: ``"cls"`` or
            ``"mean"``.
        learning_rate: At the start; it falls linearly to zero.
        ica: Whether the vectors of entries are made independent components first; settings, to choose them.

    Raises:
        ArgumentError: If an argument is outside its domain.
    """

    entry: str = "ac"
    pooling: str = "cls"
    learning_rate: float = 2e-5
    ica: bool | ICAConfig = False

    def __post_init__(self) -> None:
        """Check the names, the rate and the settings."""
        if self.entry not in ENTRY_POOLINGS:
            raise bad_choice("Stage", "entry", ENTRY_POOLINGS, self.entry)
        if self.pooling not in TRAINING_POOLINGS:
            remedy = "A model that was trained with one of them can be opened with pooling='prompt'"
            domain = f"one of {', '.join(map(repr, TRAINING_POOLINGS))}"
            raise bad_argument("Stage", "pooling", domain, self.pooling, remedy)
        check_number("Stage", "learning_rate", self.learning_rate)
        if not isinstance(self.ica, (bool, ICAConfig)):
            raise bad_argument("Stage", "ica", "True, False or an ICAConfig", self.ica)


class ProgressiveSeparateTrainer:
    """Train stage after stage; every stage starts from the base, and only the entries' vectors go on.

    Stage t builds ``E_t`` with the model of stage t - 1 (stage 1 with the base), and trains a fresh copy of
    the base to project definitions on it. Each stage leaves a model in a folder of its own, the last one in
    the output folder itself, and is not repeated by a run that goes on.

    Args:
        base: Folder or hub id, opened anew for each stage, or an embedder, of which each stage trains a copy.
        definitions: What is trained on.
        stages: The stages, at least one.
        options: What they have in common; ``None`` for the defaults.
        evaluate: Measures the base and the model of each stage; ``None`` measures nothing.

    Raises:
        ArgumentError: If there is no stage.

    Attributes:
        before: Metrics of the base, pooled as the last stage does.
        records: What is known of each finished stage: settings, the head's source, isotropy of the entries'
            vectors, metrics.
    """

    def __init__(
        self,
        base: str | Path | DefSentPlusEmbedder,
        definitions: DefinitionSet,
        stages: Sequence[Stage],
        *,
        options: TrainingOptions | None = None,
        evaluate: Evaluate | None = None,
    ) -> None:
        self.base = base
        self.definitions = definitions
        self.stages = tuple(stages)
        self.options = options or TrainingOptions()
        self.evaluate = evaluate
        self.before: dict[str, float] = {}
        self.records: list[dict[str, Any]] = []
        if not self.stages:
            raise bad_argument(_OWNER, "stages", "at least one stage", self.stages)

    def train(self, output_dir: str | Path, *, resume: bool = False) -> DefSentPlusEmbedder:
        """Run all stages.

        Args:
            output_dir: Where the model goes; other stages go to ``stage_1`` and so on in it, checkpoints to
                ``checkpoints`` of each.
            resume: Go on from what is there; ends with the weights of a run that was never stopped.

        Returns:
            The model of the last stage.

        Raises:
            ArgumentError: If the run to go on with had another base, other definitions, stages or options.
            CheckpointError: If the base cannot be opened.
            FletchingError: If it is run in several processes.
            MissingExtraError: If the ``train`` extra is not installed.
        """
        check_processes(_OWNER)
        output = Path(output_dir)
        if not resume:
            forget_run(output, "stage_*/checkpoints")
        folder = TrainingFolder(output, resume=resume)
        self._begin(folder)
        self.records = []
        places = [output / f"stage_{number}" for number in range(1, len(self.stages))] + [output]
        previous: Path | None = None
        for number, (stage, place) in enumerate(zip(self.stages, places, strict=True), start=1):
            record = place / "checkpoints" / _RECORD_FILE
            if not (resume and record.is_file()):
                self._train_stage(number, stage, previous, place, resume=resume)
            else:
                logger.info("Stage %d in %s is done.", number, place)
            self.records.append(json.loads(record.read_text(encoding="utf-8")))
            previous = place
        return DefSentPlusEmbedder(str(output), device=self._device())

    def _begin(self, folder: TrainingFolder) -> None:
        """Note what is trained on what, or refuse to go on with something else, and measure the base."""
        with torch.random.fork_rng():
            torch.manual_seed(self.options.seed)  # a checkpoint may lack weights, which are drawn then
            base = self.open_base(self.stages[-1].pooling)
        options = {name: value for name, value in asdict(self.options).items() if name not in _FREE_OPTIONS}
        plan = {
            "base": fingerprint(base),
            "definitions": hash_definitions(self.definitions),
            "stages": [asdict(stage) for stage in self.stages],
            "options": options,
        }
        folder.keep_plan(_OWNER, plan)
        if self.evaluate is not None:
            evaluate = self.evaluate
            self.before = folder.keep_before(lambda: evaluate(base))

    def _train_stage(
        self, number: int, stage: Stage, previous: Path | None, place: Path, *, resume: bool
    ) -> None:
        folder = TrainingFolder(place, resume=resume)
        entries = self._build_entries(stage, previous, folder)
        logger.info("Stage %d on %s.", number, self.definitions)
        with torch.random.fork_rng():
            torch.manual_seed(self.options.seed)
            model = self.open_base(stage.pooling)
            loss = DefinitionProjectionLoss(
                model,
                entries.vectors,
                head=self.options.head,
                activation=self.options.activation,
                backbone=self.options.backbone,
                classes_at_once=self.options.classes_at_once,
            )
            rows = self.definitions.to_dataset(multi_positive=self.options.multi_positive)
            fit(model, loss, rows, folder, options=self.options, learning_rate=stage.learning_rate)
        model.eval()
        model.attach_head(loss.head.dense, activation=loss.head.activation, entries=entries)
        record = {
            "stage": number,
            "settings": asdict(stage),
            "head": loss.head.source,
            "activation": loss.head.activation,
            "entries": {"count": len(entries.vectors), **measure_isotropy(_thin(entries.vectors))},
            "metrics": self.evaluate(model) if self.evaluate else {},
        }
        model.save_pretrained(str(place))
        write_lines(folder.checkpoints / _RECORD_FILE, [json.dumps(record, indent=1)])

    def _build_entries(self, stage: Stage, previous: Path | None, folder: TrainingFolder) -> EntryEmbeddings:
        """Build the entries' vectors with the model of the stage before, or read what a killed run built."""
        path = folder.checkpoints / _ENTRIES_FILE
        if path.is_file():
            return EntryEmbeddings.load(path)
        model = self.open_base(stage.pooling) if previous is None else self._open(str(previous))
        entries = EntryEmbeddings.build(model, self.definitions, how=stage.entry, batch_size=_ENTRY_BATCH)
        if stage.ica:
            entries = entries.ica(stage.ica if isinstance(stage.ica, ICAConfig) else None)
        entries.save(path)
        return entries

    def open_base(self, pooling: str) -> DefSentPlusEmbedder:
        """Open a fresh copy of the base.

        Args:
            pooling: How it is to pool.

        Returns:
            The model, with the base's weights.
        """
        if isinstance(self.base, DefSentPlusEmbedder):
            model = copy.deepcopy(self.base)
            model.pooling = pooling
            return self._limit(model)
        return self._open(str(self.base), pooling=pooling)

    def _open(self, location: str, **settings: Any) -> DefSentPlusEmbedder:
        return self._limit(DefSentPlusEmbedder(location, device=self._device(), **settings))

    def _limit(self, model: DefSentPlusEmbedder) -> DefSentPlusEmbedder:
        if self.options.max_tokens is not None:
            model.max_seq_length = self.options.max_tokens
        return model

    def _device(self) -> str | None:
        return str(self.base.device) if isinstance(self.base, DefSentPlusEmbedder) else None


def check_processes(owner: str) -> None:
    """Refuse several processes: the projection is the loss's, and each of them would train its own.

    Args:
        owner: Who asks.

    Raises:
        FletchingError: If there are several.
    """
    count = count_processes()
    if count != 1:
        raise FletchingError(f"{owner}: it trains in one process; WORLD_SIZE is {count}.")


def hash_definitions(definitions: DefinitionSet) -> str:
    """Name what is trained on, so that a run that goes on finds out whether it is the same.

    Args:
        definitions: The definitions.

    Returns:
        64 hexadecimal digits, equal for equal entries with equal definitions.
    """
    return sha256(json.dumps([definitions.members, definitions.definitions]).encode()).hexdigest()


def _thin(vectors: Tensor) -> Tensor:
    """Take some rows, evenly spread: enough to measure by."""
    places = torch.linspace(0, len(vectors) - 1, min(len(vectors), _MEASURED_ROWS)).round().long()
    return vectors[places].float().cpu()
