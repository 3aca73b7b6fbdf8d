"""What training recipes share.

- `recipe.py`: `TrainingFolder`, where a recipe writes and what it finds there when it goes on
- `epochs.py`: `EpochCallback`, for rows that change from epoch to epoch
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.training.epochs import EpochCallback as EpochCallback
    from fletching.training.recipe import TrainingFolder as TrainingFolder
    from fletching.training.recipe import hash_file as hash_file

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "EpochCallback": "fletching.training.epochs:EpochCallback",
        "TrainingFolder": "fletching.training.recipe:TrainingFolder",
        "hash_file": "fletching.training.recipe:hash_file",
    },
)
