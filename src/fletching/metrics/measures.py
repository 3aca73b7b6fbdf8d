"""The names of measures, and what trec_eval calls them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fletching.errors import bad_choice

__all__ = ["Measure", "parse_measure"]

# Ours -> trec_eval's over the whole ranking, and its name for the first k; None where it has none.
_NAMES: dict[str, tuple[str | None, str | None]] = {
    "map": ("map", "map_cut"),
    "mrr": ("recip_rank", "recip_rank"),  # cut by us
    "ndcg": ("ndcg", "ndcg_cut"),
    "precision": (None, "P"),
    "r_precision": ("Rprec", None),
    "recall": (None, "recall"),
    "success": (None, "success"),
}
_CUT = re.compile(r"(?P<name>[a-z_]+?)_at_(?P<k>[1-9][0-9]{0,8})")


@dataclass(frozen=True)
class Measure:
    """A measure of a ranking.

    Args:
        name: Ours, such as ``"ndcg_at_10"``.
        request: What pytrec_eval is asked for: ``"ndcg_cut.10"``.
        result: What it calls the value: ``"ndcg_cut_10"``.
        max_rank: For MRR, the rank after which a relevant document counts for nothing; ``None``: never.
    """

    name: str
    request: str
    result: str
    max_rank: int | None = None

    def compute(self, values: dict[str, float]) -> float:
        """Read the value of one query off pytrec_eval's.

        Args:
            values: What pytrec_eval computed for the query.

        Returns:
            The value.
        """
        value = values[self.result]
        if self.max_rank is not None and value * (self.max_rank + 0.5) < 1:  # 1/rank: half a rank from both
            return 0.0
        return value


def parse_measure(owner: str, name: object) -> Measure:
    """Read the name of a measure.

    Args:
        owner: The call to name in an error.
        name: Such as ``"map"`` or ``"ndcg_at_10"``.

    Returns:
        The measure.

    Raises:
        ArgumentError: If there is no such measure; the text lists those there are.

    Example:
        >>> parse_measure("example", "recall_at_100").request
        'recall.100'
    """
    match = _CUT.fullmatch(name) if isinstance(name, str) else None
    base, cut = (match["name"], match["k"]) if match else (name, "")
    whole, first = _NAMES.get(base, (None, None)) if isinstance(base, str) else (None, None)
    if cut and first == "recip_rank":
        return Measure(str(name), first, first, max_rank=int(cut))
    if cut and first:
        return Measure(str(name), f"{first}.{cut}", f"{first}_{cut}")
    if not cut and whole:
        return Measure(str(name), whole, whole)
    options = [key for key, (plain, _) in _NAMES.items() if plain]
    raise bad_choice(
        owner, "measures", options + [f"{key}_at_10" for key, (_, k) in _NAMES.items() if k], name
    )
