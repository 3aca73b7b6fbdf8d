"""A library leaves the process it runs in as it found it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "fletching"

RUDE_CALLS = re.compile(
    r"""(random|(np|numpy)\.random|torch|torch\.cuda)\.(seed|manual_seed|manual_seed_all)
    | (transformers\.)?set_seed
    | warnings\.(filterwarnings|simplefilter)
    | logging\.(basicConfig|disable) | .*\.(setLevel|addHandler)
    | os\.(putenv|unsetenv|environ\.(setdefault|update|pop|clear))
    | torch\.set_(num_threads|default_dtype|default_device|grad_enabled)""",
    flags=re.VERBOSE,
)


def find_rude_lines(node: ast.AST) -> Iterator[int]:
    if isinstance(node, ast.With) and ast.unparse(node.items[0]).startswith("torch.random.fork_rng("):
        return  # the generator is put back
    if isinstance(node, ast.Call) and RUDE_CALLS.fullmatch(ast.unparse(node.func)):
        yield node.lineno
    if isinstance(node, (ast.Assign, ast.Delete)):
        yield from (node.lineno for target in node.targets if ast.unparse(target).startswith("os.environ["))
    for child in ast.iter_child_nodes(node):
        yield from find_rude_lines(child)


LIBRARY = [
    path for path in sorted(SOURCE.rglob("*.py")) if path.parent.name != "cli"
]  # a command owns its process


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(SOURCE).with_suffix("")))
def test_module_changes_no_global_state(path: Path) -> None:
    assert list(find_rude_lines(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.manual_seed(0)",
        "random.seed(0)",
        "np.random.seed(0)",
        "os.environ['X'] = '1'",
        "del os.environ['X']",
        "os.environ.setdefault('X', '1')",
        "warnings.simplefilter('ignore')",
        "logging.getLogger().setLevel(10)",
    ],
)
def test_rude_lines_are_recognised(line: str) -> None:
    assert list(find_rude_lines(ast.parse(line))) == [1]
