"""Start a method: ``make new-method NAME=x`` writes a small working reranker, its test and its page."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from string import Template

TEMPLATES = {
    "src/fletching/methods/$name/__init__.py": '''
"""$title: what it does, in one sentence.

- `plugin.py`: the description that the registry reads
- `config.py`: hyper-parameters and where they come from
- `functional.py`: the equations
- `modules.py`: the layers
- `model.py`: `${title}Reranker`

Reference: authors, title, year (arXiv 0000.00000).
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.methods.$name.config import ${title}Config as ${title}Config
    from fletching.methods.$name.model import ${title}Reranker as ${title}Reranker

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "${title}Config": "fletching.methods.$name.config:${title}Config",
        "${title}Reranker": "fletching.methods.$name.model:${title}Reranker",
    },
)
''',
    "src/fletching/methods/$name/plugin.py": '''
"""$title in the registry."""

from fletching.hookspecs import hookimpl
from fletching.registry import MethodSpec


@hookimpl
def fletching_methods() -> list[MethodSpec]:
    """Return $title."""
    return [
        MethodSpec(
            name="$name",
            kind="reranker",
            title="$title",
            summary="What it is for, in one line.",
            paper="",
            fidelity="reconstruction",
            entry="fletching.methods.$name.model:${title}Reranker",
            module_classes=("fletching.methods.$name.modules.${title}Module",),
        )
    ]
''',
    "src/fletching/methods/$name/config.py": '''
"""Hyper-parameters of $title."""

from __future__ import annotations

from dataclasses import dataclass

from fletching.errors import bad_argument


@dataclass(frozen=True)
class ${title}Config:
    """What can be chosen about $title.

    Args:
        temperature: Divides the scores; unitless, > 0.
    """

    temperature: float = 1.0  # ours

    def __post_init__(self) -> None:
        """Check every value."""
        if self.temperature <= 0:
            raise bad_argument("${title}Config", "temperature", "positive", self.temperature)
''',
    "src/fletching/methods/$name/functional.py": '''
"""The equations of $title."""

from __future__ import annotations

from torch import Tensor


def sharpen_scores(scores: Tensor, *, temperature: float) -> Tensor:
    """Spread the scores of a list.

    Args:
        scores: Logits, shape ``(N, 1)``.
        temperature: Divides the scores; unitless, > 0.

    Returns:
        Logits, in the shape of ``scores``.

    Example:
        >>> sharpen_scores(torch.tensor([[1.0], [2.0]]), temperature=0.5)
        tensor([[2.],
                [4.]])
    """
    return scores / temperature
''',
    "src/fletching/methods/$name/modules.py": '''
"""The layers of $title."""

from __future__ import annotations

from typing import Any

from sentence_transformers.base.modules import Module

from fletching.methods.$name.config import ${title}Config
from fletching.methods.$name.functional import sharpen_scores


class ${title}Module(Module):
    """Rewrites the scores of a cross-encoder.

    Args:
        temperature: Divides the scores; unitless, > 0.
    """

    config_keys = ["temperature"]

    def __init__(self, temperature: float = ${title}Config.temperature) -> None:
        super().__init__()
        self.temperature = ${title}Config(temperature=temperature).temperature

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Divide ``features["scores"]`` by the temperature.

        Args:
            features: The batch; ``scores`` has the shape ``(N, 1)``.
            **kwargs: Not used.

        Returns:
            The same mapping.
        """
        features["scores"] = sharpen_scores(features["scores"], temperature=self.temperature)
        return features

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the configuration; there are no weights.

        Args:
            output_path: Folder of the module.
            *args: Not used.
            safe_serialization: Not used.
            **kwargs: Not used.
        """
        self.save_config(output_path)
''',
    "src/fletching/methods/$name/model.py": '''
"""What users of $title call."""

from __future__ import annotations

from typing import Any

from fletching.methods.$name.config import ${title}Config
from fletching.methods.$name.modules import ${title}Module
from fletching.models.reranker import Reranker


class ${title}Reranker(Reranker):
    """A cross-encoder with the scores of $title; everything else is `Reranker`."""

    @classmethod
    def from_cross_encoder(
        cls, model_name_or_path: str, *, temperature: float = ${title}Config.temperature, **kwargs: Any
    ) -> ${title}Reranker:
        """Build a new model on a cross-encoder.

        Args:
            model_name_or_path: Folder or hub id of the cross-encoder.
            temperature: Divides the scores; unitless, > 0.
            **kwargs: Arguments of `Reranker`.

        Returns:
            The model.
        """
        base = Reranker(model_name_or_path, **kwargs)
        return cls(modules=[*base, ${title}Module(temperature)], **kwargs)
''',
    "tests/methods/$name/test_model.py": """
from __future__ import annotations

from pathlib import Path
from typing import Any

from fletching.methods.$name import ${title}Reranker
from fletching.plugins import registry
from fletching.testing import RerankerContract, check_method, save_tiny_cross_encoder


class Test${title}Reranker(RerankerContract):
    @classmethod
    def make_model(cls, folder: Path) -> Any:
        tiny = save_tiny_cross_encoder(folder)
        return ${title}Reranker.from_cross_encoder(tiny, temperature=0.5, device="cpu")


def test_description_is_true() -> None:
    check_method(registry().get("$name"))
""",
    "docs/methods/$name.md": """
# $title

## What it does

## When to use it

## Try it

## Train it

## What the paper reports

## How we differ

## API

::: fletching.methods.$name.model.${title}Reranker
""",
}


def write_method(root: Path, name: str) -> list[Path]:
    """Write the files of a new method.

    Args:
        root: Root of the repository.
        name: The method's name: lower-case letters, digits and underscores, a letter first.

    Returns:
        The files.

    Raises:
        SystemExit: If the name cannot be used or is taken.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        sys.exit(f"NAME must be lower-case letters, digits and underscores, a letter first; got {name!r}.")
    words = {"name": name, "title": "".join(part.capitalize() for part in name.split("_"))}
    files = {
        root / Template(path).substitute(words): Template(text).substitute(words)
        for path, text in TEMPLATES.items()
    }
    if taken := [str(path.relative_to(root)) for path in files if path.exists()]:
        sys.exit(f"NAME is taken: {taken[0]} exists.")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip("\n"), encoding="utf-8")
    return list(files)


def main() -> None:
    """Read the name from the command line and list what was written."""
    parser = argparse.ArgumentParser(description="Start a method.")
    parser.add_argument("name", help="the method's name, such as my_method")
    root = Path(__file__).resolve().parents[1]
    for path in write_method(root, parser.parse_args().name):
        print(path.relative_to(root))
    print("Next: fill these in, then run `make test`.")


if __name__ == "__main__":
    main()
