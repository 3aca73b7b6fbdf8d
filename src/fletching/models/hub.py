"""Where the files of a base model come from, as transformers wants to be told."""

from __future__ import annotations

from typing import Any

__all__ = ["spread_hub_options"]


def spread_hub_options(
    *,
    token: bool | str | None = None,
    cache_folder: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    local_files_only: bool = False,
    model_kwargs: dict[str, Any] | None = None,
    processor_kwargs: dict[str, Any] | None = None,
    config_kwargs: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Tell model, tokenizer and configuration alike where their files are.

    Args:
        token: Access token of the hub.
        cache_folder: Where downloads are kept.
        revision: Commit, branch or tag.
        trust_remote_code: Passed on.
        local_files_only: Whether nothing is downloaded.
        model_kwargs: Further arguments for the model; they win.
        processor_kwargs: Likewise for the tokenizer.
        config_kwargs: Likewise for the configuration.

    Returns:
        ``model_kwargs``, ``processor_kwargs`` and ``config_kwargs`` of ``Transformer`` of
        sentence-transformers.

    Example:
        >>> spread_hub_options(revision="main", model_kwargs={"dtype": "float16"})["model_kwargs"]["dtype"]
        'float16'
    """
    hub = {
        "token": token,
        "revision": revision,
        "local_files_only": local_files_only,
        "trust_remote_code": trust_remote_code,
        "cache_dir": cache_folder,
    }
    return {
        "model_kwargs": {**hub, **(model_kwargs or {})},
        "processor_kwargs": {**hub, **(processor_kwargs or {})},
        "config_kwargs": {**hub, **(config_kwargs or {})},
    }
