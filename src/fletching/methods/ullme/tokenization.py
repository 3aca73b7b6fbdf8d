"""From texts and a template to tokens, and the place of the text among them.

The template's special tokens become ids by themselves; what lies between two of them is tokenized as a whole,
with the texts filled in, and special tokens spelt out in a text are read as the characters they are. So the
tokens are those of the whole string, for every text without such spellings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fletching.errors import bad_argument
from fletching.methods.ullme.config import OWNER
from fletching.methods.ullme.templates import SLOTS

_CHARACTERS_PER_TOKEN = 16  # far more than any tokenizer packs into its average token
_ANCHOR = "\n"  # what a text may follow: no tokenizer joins a letter to it
_ATTEMPTS = 8  # to cut a text: a cut border may tokenize differently


@dataclass(frozen=True)
class Row:
    """One text in its template.

    Args:
        ids: Tokens.
        start: Place of the first token of the text that the template ends with.
        stop: Place of the first token after it.
        lost: Tokens of its texts that are not read.
    """

    ids: list[int]
    start: int
    stop: int
    lost: int = 0


@dataclass(frozen=True)
class _Span:
    """Where the tokens of one text are in a row, and which characters each of them holds."""

    start: int
    stop: int
    ends: list[int]  # of the tokens, in characters of the text

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class _Stretch:
    """What stands between two special tokens of a template; they may take the whitespace beside them."""

    text: str
    strips_left: bool = False
    strips_right: bool = False


class TemplateTokenizer:
    """Writes texts into one template and tokenizes them.

    Args:
        tokenizer: A fast tokenizer of transformers.
        template: Text with the places of :data:`SLOTS`.
        add_special_tokens: Whether the tokens that the tokenizer puts around a text go around.
        owner: Who speaks in the errors.

    Raises:
        ArgumentError: If the tokenizer does not say where its tokens begin and end.
    """

    def __init__(
        self, tokenizer: Any, template: str, *, add_special_tokens: bool, owner: str = OWNER
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            domain = "a model with a fast tokenizer, which says where its tokens begin"
            raise bad_argument(owner, "model_name_or_path", domain, type(tokenizer).__name__)
        self._tokenizer, self._owner = tokenizer, owner
        self._parts, self._guarded = self._split(template)
        self.slots = tuple(name for name in SLOTS.findall(template) if name != "instruction")
        self._front, self._back = self._find_around() if add_special_tokens else ([], [])
        self._anchored = False
        self._anchored = self._needs_anchor(template)

    def build_rows(self, values: Sequence[Mapping[str, str]], *, max_tokens: int | None) -> list[Row]:
        """Fill in the texts, and cut at their ends what does not fit; the template never is.

        With two texts the query gets at most half of the room, or more where the passage leaves it.

        Args:
            values: What each place is filled with, one mapping per row; the same places in all.
            max_tokens: Longest row; ``None`` cuts nothing.

        Returns:
            One row each.

        Raises:
            ArgumentError: If the template does not fit without any text.
        """
        filled = [self._shorten(row, max_tokens) for row in values]
        built = self._tokenize([row for row, _ in filled])
        rows = []
        for (row, longer), (ids, spans) in zip(filled, built, strict=True):
            if longer and max_tokens is not None and len(ids) <= max_tokens:  # spaces, say: few tokens
                row, longer = {**row, **longer}, {}
                ids, spans = self._tokenize([row])[0]
            if max_tokens is not None and len(ids) > max_tokens:
                rows.append(self._fit(row, ids, spans, max_tokens, longer))
            else:
                rows.append(self._finish(ids, spans, 0))
        return rows

    def _fit(
        self,
        row: Mapping[str, str],
        ids: list[int],
        spans: dict[str, _Span],
        max_tokens: int,
        longer: Mapping[str, str],
    ) -> Row:
        """Cut the texts of one row until it fits; ``longer`` are those that were shortened before."""
        short = sum(len(span) for name, span in spans.items() if name not in longer)
        whole = short + sum(map(self._count, longer.values()))
        around = len(ids) - sum(len(span) for span in spans.values())
        if around > max_tokens:
            raise self._too_narrow(around, max_tokens)
        room = max_tokens - around
        for _ in range(_ATTEMPTS):
            keep = self._share(room, spans)
            cut = {name: _cut(row[name], spans[name], keep[name]) for name in self.slots}
            ids, spans = self._tokenize([{**row, **cut}])[0]
            if len(ids) <= max_tokens:
                return self._finish(ids, spans, whole - sum(len(span) for span in spans.values()))
            row = {**row, **cut}
            room -= len(ids) - max_tokens
        empty = {**row, **dict.fromkeys(self.slots, "")}
        ids, spans = self._tokenize([empty])[0]
        if len(ids) > max_tokens:
            raise self._too_narrow(len(ids), max_tokens)
        return self._finish(ids, spans, whole)

    def _share(self, room: int, spans: Mapping[str, _Span]) -> dict[str, int]:
        """Share the room among the texts: all before the last get their part of it, the last one the rest."""
        room = max(room, 0)
        *others, last = self.slots
        keep = {}
        for name in others:
            keep[name] = min(len(spans[name]), max(room // 2, room - len(spans[last])))
            room -= keep[name]
        return {**keep, last: min(len(spans[last]), room)}

    def _shorten(
        self, row: Mapping[str, str], max_tokens: int | None
    ) -> tuple[Mapping[str, str], dict[str, str]]:
        """Cut a text behind the last token that could fit, so that its rest is tokenized once; say which."""
        row = {name: self._guard(value) for name, value in row.items()}
        if max_tokens is None:
            return row, {}
        limit = max_tokens * _CHARACTERS_PER_TOKEN
        longer = {name: row[name] for name in self.slots if len(row[name]) > limit}
        return {**row, **{name: value[:limit] for name, value in longer.items()}}, longer

    def _tokenize(self, values: Sequence[Mapping[str, str]]) -> list[tuple[list[int], dict[str, _Span]]]:
        """Ids of whole rows, and where their texts are."""
        if not values:
            return []
        rows: list[list[int]] = [[*self._front] for _ in values]
        spans: list[dict[str, _Span]] = [{} for _ in values]
        for number, part in enumerate(self._parts):
            if isinstance(part, int):
                for ids in rows:
                    ids.append(part)
                continue
            filled = [_fill(part, row) for row in values]
            texts = [text for text, _ in filled]
            encoded = self._encode_anchored(texts) if self._anchored and number else self._encode(texts)
            for place, (_, borders) in enumerate(filled):
                offsets = encoded[place][1]
                for name, (begin, end) in borders.items():
                    spans[place][name] = _find_span(offsets, begin, end, len(rows[place]))
                rows[place] += encoded[place][0]
        return [([*ids, *self._back], found) for ids, found in zip(rows, spans, strict=True)]

    def _finish(self, ids: list[int], spans: Mapping[str, _Span], lost: int) -> Row:
        last = spans[self.slots[-1]]
        if not ids:  # a template of nothing but the text, and the text empty: something must be read
            tokenizer = self._tokenizer
            known = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 0)
            return Row([next(id_ for id_ in known if id_ is not None)], 0, 1, lost)
        return Row(ids, last.start, last.stop, lost)

    def _encode(self, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Tokenize without special tokens; those that a text spells out are text."""
        encoded = self._tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return [*zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)]

    def _encode_anchored(self, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Tokenize texts as what follows something: behind a newline, whose tokens are dropped."""
        found = []
        width = len(_ANCHOR)
        for ids, offsets in self._encode([_ANCHOR + text for text in texts]):
            own = [place for place, (_, end) in enumerate(offsets) if end > width]
            moved = [(max(offsets[place][0] - width, 0), offsets[place][1] - width) for place in own]
            found.append(([ids[place] for place in own], moved))
        return found

    def _needs_anchor(self, template: str) -> bool:
        """Try whether what follows a special token is tokenized as at the start of a row."""
        # some tokenizers of SentencePiece's kind put a space in front, but only once a row
        if not any(isinstance(part, int) for part in self._parts):
            return False
        names = SLOTS.findall(template)
        whole = self._tokenizer(SLOTS.sub("a", template), add_special_tokens=False, verbose=False)[
            "input_ids"
        ]

        def matches() -> bool:
            ids = self._tokenize([dict.fromkeys(names, "a")])[0][0]
            return ids[len(self._front) : len(ids) - len(self._back)] == whole

        if matches():
            return False
        self._anchored = True
        return matches()

    def _count(self, text: str) -> int:
        return len(self._encode([text])[0][0])

    def _split(self, template: str) -> tuple[list[int | _Stretch], list[str]]:
        """Split a template at its special tokens; list those that a text could spell out all the same."""
        added = {token.content: (id_, token) for id_, token in self._tokenizer.added_tokens_decoder.items()}
        longest_first = sorted(filter(None, added), key=len, reverse=True)
        if not longest_first:
            return [_Stretch(template)], []
        pieces = re.split(f"({'|'.join(map(re.escape, longest_first))})", template)  # every other one a token
        parts: list[int | _Stretch] = []
        guarded = []
        for number, piece in enumerate(pieces):
            if number % 2:
                id_, token = added[piece]
                parts.append(id_)
                if not token.special and piece.strip():  # whitespace ends no template
                    guarded.append(piece)
            elif piece:
                before, after = pieces[max(number - 1, 0)], pieces[min(number + 1, len(pieces) - 1)]
                strips_left = number > 0 and added[before][1].rstrip
                strips_right = number + 1 < len(pieces) and added[after][1].lstrip
                parts.append(_Stretch(piece, strips_left, strips_right))
        return parts, guarded

    def _guard(self, text: str) -> str:
        """Put a space into what would be read as a token of the template."""
        for content in self._guarded:
            text = text.replace(content, f"{content[:1]} {content[1:]}")
        return text

    def _find_around(self) -> tuple[list[int], list[int]]:
        """Find the special tokens that the tokenizer puts in front of a text and behind it."""
        bare = self._encode(["a"])[0][0]
        whole = self._tokenizer(["a"], verbose=False)["input_ids"][0]
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
        return [], []

    def _too_narrow(self, needed: int, max_tokens: int) -> Exception:
        domain = f"at least {needed}, the tokens of template and instruction without any text"
        return bad_argument(self._owner, "max_seq_length", domain, max_tokens)


def _fill(part: _Stretch, values: Mapping[str, str]) -> tuple[str, dict[str, tuple[int, int]]]:
    """Fill one stretch of a template; say where each text begins and ends, in characters."""
    written, end, borders = "", 0, {}
    for found in SLOTS.finditer(part.text):
        written += part.text[end : found.start()]
        end = found.end()
        name, value = found.group(1), values[found.group(1)]
        if name != "instruction":
            borders[name] = (len(written), len(written) + len(value))
        written += value
    written += part.text[end:]
    if part.strips_right:
        written = written.rstrip()
    if part.strips_left:
        lost = len(written) - len(written.lstrip())
        written = written[lost:]
        borders = {name: (max(start - lost, 0), stop - lost) for name, (start, stop) in borders.items()}
    return written, borders


def _find_span(offsets: list[tuple[int, int]], begin: int, end: int, shift: int) -> _Span:
    """Find the tokens that hold characters of a text: one that also holds the template's is the text's."""
    start = next((place for place, (_, stop) in enumerate(offsets) if stop > begin), len(offsets))
    if begin >= end and start < len(offsets) and offsets[start][0] < begin:  # in the midst of the template's
        start += 1
    stop = next((place for place in range(start, len(offsets)) if offsets[place][0] >= end), len(offsets))
    return _Span(shift + start, shift + stop, [offsets[place][1] - begin for place in range(start, stop)])


def _cut(text: str, span: _Span, keep: int) -> str:
    """Keep the first tokens of a text, as text."""
    if keep >= len(span):
        return text
    return text[: max(span.ends[keep - 1], 0)] if keep > 0 else ""
