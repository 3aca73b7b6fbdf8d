"""Does a model keep its promises? Lists are shuffled, cut, copied, padded and threaded, and what moves shows.

- `runner.py`: `audit`, from a model to a report; `report.py`: `AuditReport`, as Markdown and on a model card
- `reranker_probes.py`, `position.py`, `embedder_probes.py`: what is tried, one function each
- `drift.py`: how far results may move before it is more than float noise
- `slices.py`: quality by script and by length
- `callers.py`: one way to call models of every make
- `lists.py`, `lists.jsonl`: the lists it works on, its own where none are given
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.evaluation.audit.lists import read_own_lists as read_own_lists
    from fletching.evaluation.audit.report import AuditReport as AuditReport
    from fletching.evaluation.audit.report import Probe as Probe
    from fletching.evaluation.audit.report import Slice as Slice
    from fletching.evaluation.audit.report import write_audit as write_audit
    from fletching.evaluation.audit.runner import audit as audit

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "AuditReport": "fletching.evaluation.audit.report:AuditReport",
        "Probe": "fletching.evaluation.audit.report:Probe",
        "Slice": "fletching.evaluation.audit.report:Slice",
        "audit": "fletching.evaluation.audit.runner:audit",
        "read_own_lists": "fletching.evaluation.audit.lists:read_own_lists",
        "write_audit": "fletching.evaluation.audit.report:write_audit",
    },
)
