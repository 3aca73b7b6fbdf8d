"""Search over a folder: read, cut, embed, store, retrieve, rerank.

- `index.py`: what users call; `hits.py`: what they get
- `update.py`: from files to rows; `readers.py`: from bytes to passages
- `store.py`: what is complete; `table.py`: LanceDB; `fusion.py`: two rankings in one
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.search.hits import Hit as Hit
    from fletching.search.index import Index as Index
    from fletching.search.update import UpdateReport as UpdateReport

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "Hit": "fletching.search.hits:Hit",
        "Index": "fletching.search.index:Index",
        "UpdateReport": "fletching.search.update:UpdateReport",
    },
)
