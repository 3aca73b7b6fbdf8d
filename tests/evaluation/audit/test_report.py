"""The report as Markdown, JSON and on a model card."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from fletching.evaluation.audit import AuditReport, Probe, Slice, write_audit

REPORT = AuditReport(
    model="runs/3",
    kind="reranker",
    listwise=True,
    dtype="float32",
    fingerprint="f1",
    data_name="a<b",
    data_digest="d1",
    n_lists=1,
    n_documents=8,
    seed=0,
    version="1.0",
    probes=(
        Probe("form", "ok", 0.0, 0.0, "As it should be."),
        Probe("ties", "note", 0.123, 0.05, "A | pipe\nand a line."),
        Probe("threads", "fault", 1.0, 0.0, "Wrong."),
        Probe("query", "skipped", None, None, "One query."),
    ),
    slices=(Slice("all", "all lists", 1, 8, 0.5, -0.004, None, 3),),
    remarks=("Drawn: 1 of 2 lists.",),
)


def test_markdown_holds_facts_tables_and_remarks() -> None:
    assert (
        REPORT.to_markdown()
        == """\
A listwise reranker in float32, on 1 list with 8 passages from a&lt;b; seed 0, fletching 1.0. \
Data `d1`, model `f1`.

**1 fault, 1 note, 1 skipped, 1 ok.**

|  | probe | value | bound | what was found |
| --- | --- | --- | --- | --- |
| ok | form | 0 | 0 | As it should be. |
| note | ties | 0.12 | 0.05 | A \\| pipe and a line. |
| fault | threads | 1 | 0 | Wrong. |
| skipped | query |  |  | One query. |

| slice |  | queries | passages | nDCG@10 | score | grade | tokens lost |
| --- | --- | --- | --- | --- | --- | --- | --- |
| all | all lists | 1 | 8 | 0.500 | +0.00 |  | 3 |

Scores and grades are means, in standard deviations from the mean of the list. Scripts are not languages: \
English and Spanish are both Latin.

Drawn: 1 of 2 lists.
"""
    )


def test_summary_begins_with_the_faults() -> None:
    healthy = replace(REPORT, probes=REPORT.probes[:2])
    assert healthy.summary() == "No fault, 1 note, 1 ok."
    assert healthy.faults == ()
    assert [probe.name for probe in REPORT.faults] == ["threads"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("embedder", "An embedder in"),
        ("sparse", "A sparse model in"),
        ("multi_vector", "A multi-vector model in"),
    ],
)
def test_first_sentence_names_the_kind(kind: str, words: str) -> None:
    assert replace(REPORT, kind=kind, listwise=False).describe()[0].startswith(words)


def test_report_survives_json() -> None:
    assert json.loads(json.dumps(asdict(REPORT)))["probes"][2]["verdict"] == "fault"


def test_card_gets_a_section_that_names_no_folder(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlanguage: en\n---\n# Mine\n", encoding="utf-8")
    card = write_audit(tmp_path, REPORT).read_text(encoding="utf-8")
    assert card.startswith("---\nlanguage: en\n---\n# Mine\n\n<!-- fletching audit: begin -->\n## Audit\n\n")
    assert "runs/3" not in card
    assert write_audit(tmp_path, REPORT).read_text(encoding="utf-8") == card
