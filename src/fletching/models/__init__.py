"""What every embedder and reranker shares.

- `reranker.py`: lists, scores, async; `embedder.py`: prompts, dimensions; `micro_batched.py`: what both do
  with text
- `batching.py`: rows and token budgets; `inputs.py`: what may be passed as text; `hardware.py`: precision
- `loading.py`: from a name, a folder or a hub id to the right class; `trust.py`: which classes a checkpoint
  may name; `sharing.py`: one model for all callers, and a name for what it computes
- `vector_cache.py`: vectors on disk, by model and text
- `card.py`: the usage section of a saved model's README; `settings.py`: names and options in adapters to
  other frameworks
"""
