from __future__ import annotations

import subprocess
import sys

import pytest

import langchain_fletching


def run_child(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_package_exports_its_adapters() -> None:
    assert langchain_fletching.__all__ == [
        "FletchingEmbeddings",
        "FletchingReranker",
        "FletchingRetriever",
        "FletchingSearchRetriever",
    ]


@pytest.mark.parametrize(
    "use",
    [
        "",
        "langchain_fletching.FletchingReranker(model='mvp-mini', top_n=5, scores='logit')",
        "langchain_fletching.FletchingEmbeddings(model='owner/name', truncate_dim=64)",
        "langchain_fletching.FletchingSearchRetriever(index='.', reranker='mvp-mini')",
    ],
    ids=["import", "reranker", "embeddings", "search"],
)
def test_nothing_heavy_is_loaded_before_the_first_use(use: str) -> None:
    heavy = "{'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)"
    assert run_child(f"import sys, langchain_fletching; {use or 'None'}; print({heavy})") == "set()"
