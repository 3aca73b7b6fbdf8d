"""What an audit found, as an object, as Markdown and on a model card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fletching.models.card import write_section

__all__ = ["FAULT", "NOTE", "OK", "SKIPPED", "AuditReport", "Probe", "Slice", "show_number", "write_audit"]

OK, NOTE, FAULT, SKIPPED = "ok", "note", "fault", "skipped"
"""Verdicts: as it should be; worth knowing; wrong; not tried, and the sentence says why."""

_NOUNS = {
    "embedder": "embedder",
    "multi_vector": "multi-vector model",
    "reranker": "reranker",
    "sparse": "sparse model",
}


@dataclass(frozen=True)
class Probe:
    """One thing that was tried.

    Args:
        name: Short name, such as ``"shuffled order"``.
        verdict: ``"ok"``, ``"note"``, ``"fault"`` or ``"skipped"``.
        value: What was measured; ``None`` where nothing is counted. What it counts is in ``sentence``.
        bound: The highest value that is ok; ``None`` where there is none.
        sentence: What was done and what came out.
    """

    name: str
    verdict: str
    value: float | None
    bound: float | None
    sentence: str


@dataclass(frozen=True)
class Slice:
    """Some of the queries or passages, and how the model does on them.

    Args:
        by: What they have in common: ``"script of the query"``.
        name: Which ones: ``"Han"``, ``"long (from 120 characters)"``.
        n_queries: Lists, those without a relevant passage included.
        n_documents: Passages.
        ndcg_at_10: Mean nDCG@10 of the lists with a relevant passage; ``None`` without grades, and for slices
            of passages.
        mean_score: Mean score of the passages, each in standard deviations from the mean of its list;
            ``None`` for slices of queries.
        mean_grade: Mean grade of the passages, measured in the same way; ``None`` without labels, and for
            slices of queries.
        lost_tokens: Tokens of the passages that the model did not read; ``None`` if that is not known.
    """

    by: str
    name: str
    n_queries: int
    n_documents: int
    ndcg_at_10: float | None = None
    mean_score: float | None = None
    mean_grade: float | None = None
    lost_tokens: int | None = None


@dataclass(frozen=True)
class AuditReport:
    """What was tried on a model and what came out.

    Args:
        model: What the user called the model, or its class.
        kind: ``"reranker"``, ``"embedder"``, ``"sparse"`` or ``"multi_vector"``.
        listwise: Whether scores may depend on the other passages of the list.
        dtype: Precision of its weights; empty where it has none.
        fingerprint: Changes with whatever changes the scores; empty for an object that is no torch module.
        data_name: Name of the lists.
        data_digest: Changes with the lists that were used.
        n_lists: Lists that were used.
        n_documents: Their passages, all together.
        seed: Decides which lists, passages and orders were drawn.
        version: fletching's version.
        probes: What was tried, in order.
        slices: Quality by script and by length.
        remarks: What was left out, and why.
    """

    model: str
    kind: str
    listwise: bool
    dtype: str
    fingerprint: str
    data_name: str
    data_digest: str
    n_lists: int
    n_documents: int
    seed: int
    version: str
    probes: tuple[Probe, ...]
    slices: tuple[Slice, ...]
    remarks: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[Probe, ...]:
        """The probes that found a fault."""
        return tuple(probe for probe in self.probes if probe.verdict == FAULT)

    def summary(self) -> str:
        """Say in one sentence how many probes came out how.

        Returns:
            Such as ``"1 fault, 2 notes, 13 ok."``.
        """
        counts = {
            verdict: sum(probe.verdict == verdict for probe in self.probes)
            for verdict in (FAULT, NOTE, SKIPPED, OK)
        }
        parts = [_count(counts[FAULT], "fault") if counts[FAULT] else "no fault"]
        parts += [_count(counts[NOTE], "note")] if counts[NOTE] else []
        parts += [f"{counts[verdict]} {verdict}" for verdict in (SKIPPED, OK) if counts[verdict]]
        sentence = ", ".join(parts) + "."
        return sentence[0].upper() + sentence[1:]

    def describe(self) -> list[str]:
        """Say what was audited, on what, and with which version.

        Returns:
            Sentences; equal audits give equal ones.
        """
        model = f"listwise {_NOUNS[self.kind]}" if self.listwise else _NOUNS[self.kind]
        model = f"An {model}" if model[0] in "aeiou" else f"A {model}"
        model += f" in {self.dtype}" if self.dtype else ""
        return [
            f"{model}, on {_count(self.n_lists, 'list')} with {_count(self.n_documents, 'passage')} from "
            f"{self.data_name}; seed {self.seed}, fletching {self.version}.",
            f"Data `{self.data_digest}`" + (f", model `{self.fingerprint}`." if self.fingerprint else "."),
        ]

    def to_markdown(self) -> str:
        """Write the report as Markdown, without a heading; it holds no date, so that equal audits are equal.

        Returns:
            Paragraphs and two tables.
        """
        blocks = [" ".join(self.describe()).replace("<", "&lt;"), f"**{self.summary()}**"]
        rows = [
            (probe.verdict, probe.name, show_number(probe.value), show_number(probe.bound), probe.sentence)
            for probe in self.probes
        ]
        blocks.append(_build_table(("", "probe", "value", "bound", "what was found"), rows))
        if self.slices:
            headings = ("slice", "", "queries", "passages", "nDCG@10", "score", "grade", "tokens lost")
            blocks.append(_build_table(headings, map(show_slice, self.slices)))
            blocks.append(
                "Scores and grades are means, in standard deviations from the mean of the list. Scripts are "
                "not languages: English and Spanish are both Latin."
            )
        blocks += self.remarks
        return "\n\n".join(blocks) + "\n"


def show_slice(part: Slice) -> tuple[str, ...]:
    """Write a slice as the cells of a table.

    Args:
        part: The slice.

    Returns:
        One cell for each of its fields.
    """
    ndcg = "" if part.ndcg_at_10 is None else f"{part.ndcg_at_10:.3f}"
    means = (part.mean_score, part.mean_grade)
    signed = ["" if mean is None else f"{round(mean, 2) + 0.0:+.2f}" for mean in means]  # never -0.00
    lost = "" if part.lost_tokens is None else str(part.lost_tokens)
    return (part.by, part.name, str(part.n_queries), str(part.n_documents), ndcg, *signed, lost)


def show_number(value: float | None) -> str:
    """Write a value or bound short.

    Args:
        value: The number.

    Returns:
        Two significant digits; empty for ``None``.

    Example:
        >>> show_number(0.0), show_number(1.23e-7), show_number(0.456), show_number(1234.0)
        ('0', '1.2e-07', '0.46', '1234')
    """
    if value is None:
        return ""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.2g}"


def write_audit(folder: str | Path, report: AuditReport) -> Path:
    """Put a report into a folder's model card, in place of an earlier one.

    The section ``## Audit`` stands between two HTML comments; the rest of the card, front matter included,
    stays as it is, byte for byte. A folder without a README gets one.

    Args:
        folder: The model's folder.
        report: What the audit found.

    Returns:
        The README.

    Raises:
        DataError: If the comments are damaged, or the file cannot be read or written.
    """
    return write_section(folder, "audit", f"## Audit\n\n{report.to_markdown()}")


def _build_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(map(_escape, line))} |" for line in lines)


def _escape(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|").replace("<", "&lt;")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
