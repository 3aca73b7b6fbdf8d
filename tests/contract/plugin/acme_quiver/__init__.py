"""A third-party plug-in as its author would write it: one hook, strings only."""

from fletching import MethodSpec, hookimpl


@hookimpl
def fletching_methods():
    return [
        MethodSpec(
            name="quiver",
            kind="reranker",
            title="Quiver",
            summary="Prefers what agrees with the other candidates.",
            paper="",
            fidelity="reconstruction",
            entry="acme_quiver.model:QuiverReranker",
            module_classes=("acme_quiver.model.QuiverHead",),
        )
    ]
