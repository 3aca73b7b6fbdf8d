"""Strings in, strings and spans out.

- `passages.py`: Markdown and plain text into passages that know their headings
- `decoding.py`: the bytes of a text file into a string
- `html.py`, `rst.py`: markup into text and headings
"""
