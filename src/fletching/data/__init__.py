"""Files of retrieval data in, plain records out; and runs and judgements back into files.

- `mapped.py`: passages by id out of files that do not fit into memory
- `texts.py`: passages and queries; `qrels.py`: judgements; `runs.py`: what a system returned
- `lists.py`: one query with labelled candidates; `sts.py`: sentence pairs with a score
- `beir.py`: a folder with all of it
- `tables.py`: any table with a header line, and what the columns of runs and judgements are called
- `lines.py`: from bytes to lines and back
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.data.beir import BEIRFolder as BEIRFolder
    from fletching.data.beir import BEIRSplit as BEIRSplit
    from fletching.data.beir import open_beir as open_beir
    from fletching.data.lists import CandidateList as CandidateList
    from fletching.data.lists import read_lists as read_lists
    from fletching.data.mapped import MappedTexts as MappedTexts
    from fletching.data.qrels import read_qrels as read_qrels
    from fletching.data.qrels import write_qrels as write_qrels
    from fletching.data.runs import read_run as read_run
    from fletching.data.runs import stream_run as stream_run
    from fletching.data.runs import write_run as write_run
    from fletching.data.sts import SentencePair as SentencePair
    from fletching.data.sts import read_sts as read_sts
    from fletching.data.tables import read_table as read_table
    from fletching.data.texts import Document as Document
    from fletching.data.texts import read_corpus as read_corpus
    from fletching.data.texts import read_queries as read_queries

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "BEIRFolder": "fletching.data.beir:BEIRFolder",
        "BEIRSplit": "fletching.data.beir:BEIRSplit",
        "CandidateList": "fletching.data.lists:CandidateList",
        "Document": "fletching.data.texts:Document",
        "MappedTexts": "fletching.data.mapped:MappedTexts",
        "SentencePair": "fletching.data.sts:SentencePair",
        "open_beir": "fletching.data.beir:open_beir",
        "read_corpus": "fletching.data.texts:read_corpus",
        "read_lists": "fletching.data.lists:read_lists",
        "read_qrels": "fletching.data.qrels:read_qrels",
        "read_queries": "fletching.data.texts:read_queries",
        "read_run": "fletching.data.runs:read_run",
        "read_sts": "fletching.data.sts:read_sts",
        "read_table": "fletching.data.tables:read_table",
        "stream_run": "fletching.data.runs:stream_run",
        "write_qrels": "fletching.data.qrels:write_qrels",
        "write_run": "fletching.data.runs:write_run",
    },
)
