"""Docstrings tell the truth about arguments; ruff checks that they exist, and checks those of functions."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "fletching"


def find_public_classes() -> dict[str, ast.ClassDef]:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[f"{path.relative_to(SOURCE).with_suffix('')}:{node.name}"] = node
    return found


CLASSES = find_public_classes()


def read_signature(node: ast.ClassDef) -> list[str] | None:
    """List the arguments a class is made with; ``None`` when it inherits them."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            arguments = [*item.args.posonlyargs[1:], *item.args.args, *item.args.kwonlyargs]
            return [argument.arg for argument in arguments if argument.arg != "self"]
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    if not any("dataclass" in decorator for decorator in decorators):
        return None
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
    return [
        ast.unparse(field.target)
        for field in fields
        if "ClassVar" not in ast.unparse(field.annotation) and "init=False" not in ast.unparse(field)
    ]


def read_documented(docstring: str) -> list[str]:
    """List the names in the ``Args`` section."""
    section = re.search(r"^Args:\n((?:(?: {4}.*)?\n?)*)", docstring, flags=re.MULTILINE)
    return re.findall(r"^ {4}(\w+):", section[1], flags=re.MULTILINE) if section else []


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_class_docstring_lists_the_arguments(name: str) -> None:
    docstring = ast.get_docstring(CLASSES[name])
    assert docstring
    signature = read_signature(CLASSES[name])
    assert signature is None or read_documented(docstring) == signature
