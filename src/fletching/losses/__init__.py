"""Training losses that more than one method uses; those of a single method are in its folder.

- `grouped_cross_entropy.py`: `GroupedCrossEntropyLoss`, a positive among its own negatives
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.losses.grouped_cross_entropy import GroupedCrossEntropyLoss as GroupedCrossEntropyLoss

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {"GroupedCrossEntropyLoss": "fletching.losses.grouped_cross_entropy:GroupedCrossEntropyLoss"},
)
