"""Strings in, strings and spans out; pure Python.

- `passages.py`: Markdown into passages that know their headings
"""
