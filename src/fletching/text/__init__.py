"""Strings in, strings and spans out.

- `passages.py`: Markdown and plain text into passages that know their headings
- `decoding.py`: the bytes of a text file into a string
- `html.py`, `rst.py`: markup into text and headings
- `words.py`: a text into the words that BM25 counts, English or Chinese
- `scripts.py`: which script a text is written in
"""
