"""With vectors on disk, a DSE model keeps every promise of rerankers."""

from __future__ import annotations

import pytest

import fletching
from fletching.methods.dse import DSEConfig, DSEReranker
from fletching.testing import RerankerContract, save_tiny_bert
from fletching.testing.contracts.promises import TEXTS, before_each_batch
from fletching.testing.tiny import MAX_SEQ_LENGTH

OPTIONS = {"pooling": "mean_top_max_with_cls", "num_layers": 2, "fc_dims": (16, 1), "head": "mlp"}


@pytest.mark.slow
class TestCachedDSE(RerankerContract):
    @classmethod
    def make_model(cls, folder):
        config = DSEConfig(**OPTIONS, max_seq_length=MAX_SEQ_LENGTH)
        return DSEReranker.from_encoder(
            save_tiny_bert(folder), config, symmetric=True, vector_cache=folder / "vectors", device="cpu"
        )

    def test_an_interrupted_call_leaves_the_model_usable(self, own_model):
        """Interrupted before anything is known, then with some vectors on disk."""
        own_model.open_cache().clear()
        batches = iter(range(3))

        def interrupt_the_third():
            if next(batches) == 2:
                raise KeyboardInterrupt

        with before_each_batch(own_model, interrupt_the_third), pytest.raises(KeyboardInterrupt):
            self.compute(own_model, [*TEXTS], batch_size=1)
        expected = self.compute(own_model, [*TEXTS], batch_size=1)
        assert self.compute(own_model, [*TEXTS], batch_size=1) == expected

    def test_memory_that_runs_out_halves_the_batches(self, own_model):
        own_model.open_cache().clear()
        super().test_memory_that_runs_out_halves_the_batches(_Forgetful(own_model))

    def test_a_saved_model_opens_as_what_it_was(self, model, tmp_path):
        """To the last bit with the same vectors; without, they come from other batches."""
        expected = self.compute(model, [*TEXTS])
        model.save(str(tmp_path))
        loaded = fletching.load(tmp_path, vector_cache=model.vector_cache, device="cpu")
        assert self.compute(loaded, [*TEXTS]) == expected


class _Forgetful:
    """A model whose vectors on disk are gone with every call."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return getattr(self.model, name)

    def rank(self, *args, **options):
        self.model.open_cache().clear()
        return self.model.rank(*args, **options)
