"""fletching: research on embedding and reranking, inside the retrieval stack you already run.

The names below are imported on first use: ``import fletching`` loads neither numpy nor torch.
"""

from typing import TYPE_CHECKING

from fletching._lazy import lazy_exports

if TYPE_CHECKING:
    from fletching.errors import FletchingError as FletchingError
    from fletching.hookspecs import hookimpl as hookimpl
    from fletching.models.embedder import Embedder as Embedder
    from fletching.models.loading import load as load
    from fletching.models.reranker import Reranker as Reranker
    from fletching.models.sharing import fingerprint as fingerprint
    from fletching.models.sharing import load_shared as load_shared
    from fletching.registry import Checkpoint as Checkpoint
    from fletching.registry import MethodSpec as MethodSpec

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "Checkpoint": "fletching.registry:Checkpoint",
        "Embedder": "fletching.models.embedder:Embedder",
        "FletchingError": "fletching.errors:FletchingError",
        "MethodSpec": "fletching.registry:MethodSpec",
        "Reranker": "fletching.models.reranker:Reranker",
        "fingerprint": "fletching.models.sharing:fingerprint",
        "hookimpl": "fletching.hookspecs:hookimpl",
        "load": "fletching.models.loading:load",
        "load_shared": "fletching.models.sharing:load_shared",
    },
)
