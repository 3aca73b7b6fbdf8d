"""Collecting this folder compiles it; `pytest tests/integration_tests/test_compile.py` does no more."""


def test_integration_tests_compile() -> None:
    pass
