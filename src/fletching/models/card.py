"""The usage section of a saved model's README.

sentence-transformers writes a complete card (base model, data, training arguments, results), but shows its
own class in the usage section even for a subclass, which would load without what the subclass adds.
"""

from __future__ import annotations

import re
from pathlib import Path

_USAGE = re.compile(
    r"(?<=^## Usage\n).*?(?=^<!--\n### Direct Usage \(Transformers\))", re.DOTALL | re.MULTILINE
)


def write_usage(folder: str, model_class: type, name: str, example: str) -> None:
    """Replace the usage section of ``folder``'s README.

    Args:
        folder: A model folder; without a README, or with one that has no such section, nothing happens.
        model_class: The class that was saved.
        name: What ``fletching.load`` should be given.
        example: Python lines that use ``model``.
    """
    readme = Path(folder) / "README.md"
    if not readme.is_file():
        return
    usage = (
        f"\nThis model is a `{model_class.__name__}` of fletching; no `trust_remote_code` is needed.\n\n"
        "```bash\npip install -U fletching\n```\n\n"
        f"```python\nimport fletching\n\nmodel = fletching.load({name!r})\n{example}\n```\n\n"
    )
    readme.write_text(_USAGE.sub(lambda _: usage, readme.read_text(encoding="utf-8")), encoding="utf-8")
