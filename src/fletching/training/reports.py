"""What a trainer says while it trains: to the log, never to stdout."""

from __future__ import annotations

import logging
import math
from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from fletching.errors import FletchingError
from fletching.training.recipe import TrainingFolder

__all__ = ["LogCallback", "run_trainer"]

logger = logging.getLogger(__name__)

_UNSAID = ("epoch", "total_flos")


class LogCallback(TrainerCallback):
    """Logs loss, learning rate and metrics of a step at level INFO; a loss that is no number ends the run."""

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Log what the trainer found.

        Args:
            args: Of the trainer; knows the precision.
            state: Of the trainer; knows the step.
            control: Of the trainer, not used.
            logs: Name -> value.
            **kwargs: Not used.

        Raises:
            FletchingError: If the loss is NaN or infinite; not in fp16, where a step may overflow.
        """
        values = {name: value for name, value in (logs or {}).items() if name not in _UNSAID}
        if values and state.is_world_process_zero:
            said = ", ".join(f"{name} {_format(value)}" for name, value in values.items())
            logger.info("Step %d of %d: %s", state.global_step, state.max_steps, said)
        loss = values.get("loss", values.get("train_loss", 0.0))
        if isinstance(loss, float) and not math.isfinite(loss) and not args.fp16:
            raise FletchingError(
                f"Training stopped: the loss is {loss} by step {state.global_step} of {state.max_steps}. "
                "Lower the learning rate, or look for labels that are out of range."
            )


def run_trainer(trainer: Trainer, folder: TrainingFolder) -> None:
    """Train, going on from the last checkpoint of the folder if there is one.

    The trainers of transformers print losses and metrics to stdout, where a command's results belong; here
    they go to the ``fletching`` logger. They also log the mean of the steps before where a loss is NaN, and
    train on; here the run ends, see `LogCallback`.

    Args:
        trainer: Any trainer of transformers or sentence-transformers.
        folder: Knows the checkpoint to go on from.
    """
    trainer.args.logging_nan_inf_filter = trainer.args.fp16
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(LogCallback())
    trainer.train(resume_from_checkpoint=folder.last_checkpoint)


def _format(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
