"""Keeps pytest off `llama_index/`: it would import `fletching.base`. The tests run the doctests instead."""

collect_ignore = ["llama_index"]
