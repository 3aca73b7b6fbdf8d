"""Tiny checkpoints in the layouts of the published ones, which the tests of this folder share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from fletching.testing import save_tiny_qwen2

CUSTOM_CODE = {"AutoModel": "modeling.Qwen2Model"}
"""What a checkpoint with modelling code of its own has in ``config.json``."""


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads, by far where other tests run beside them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Qwen2 as it is published, without any file of sentence-transformers."""
    return save_tiny_qwen2(tmp_path_factory.mktemp("qwen2"))


def change_config(folder: str | Path, **changes: object) -> None:
    """Change fields of ``config.json``; ``None`` removes one."""
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config = {**config, **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def save_layout(folder: Path, *, normalizes: bool, pooling: str = "mean", **config: object) -> str:
    """Save a tiny model of sentence-transformers, in files as they were written before transformers 5."""
    backbone = Transformer(save_tiny_qwen2(folder))
    modules = [backbone, Pooling(32, pooling), *([Normalize()] if normalizes else [])]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    change_config(folder, rope_parameters=None, rope_theta=1_000_000.0, **config)
    return str(folder)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Save a tiny model as a version of the authors is laid out, in a folder of its name."""

    def save(version: str) -> str:
        name = f"KaLM-embedding-multilingual-mini-instruct-v{version}"
        folder = tmp_path_factory.mktemp("published") / name
        if version in ("1", "1.5"):
            return save_layout(folder, normalizes=False)
        return save_layout(folder, normalizes=True, auto_map=CUSTOM_CODE)

    return save


@pytest.fixture(scope="session")
def save_in_layout() -> Callable[..., str]:
    """`save_layout`, for test files, which cannot import this one."""
    return save_layout
