"""What every embedder and reranker shares.

- `reranker.py`: lists, scores, async; `embedder.py`: prompts, dimensions; `micro_batched.py`: what both do
  with text; `tokenization.py`: the lock, and how much of a text is read
- `batching.py`: rows and token budgets; `inputs.py`: what may be passed as text; `hardware.py`: precision
- `loading.py`: from a name, a folder or a hub id to the right class; `trust.py`: which classes a checkpoint
  may name; `sharing.py`: one model for all callers, and a name for what it computes
- `adapters.py`: PEFT's, whole; `load_reports.py`: what transformers finds missing; `marks.py`: whose
  checkpoint it is
- `vector_cache.py`: vectors on disk, by model and text
- `card.py`: the usage section of a saved model's README; `settings.py`: names and options in adapters to
  other frameworks
"""
