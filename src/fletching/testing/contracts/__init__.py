"""The promises of every embedder, reranker and method, as tests.

`promises.py` holds what embedders and rerankers promise alike; `reranker.py` and `embedder.py` add their own;
`method.py` checks a method's description.
"""

import pytest

pytest.register_assert_rewrite(f"{__name__}.promises", f"{__name__}.reranker", f"{__name__}.embedder")
