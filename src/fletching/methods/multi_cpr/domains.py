"""The paper's central table: a system trained on one domain, measured on all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fletching.errors import bad_argument, missing_extra
from fletching.methods.multi_cpr.config import DOMAINS, check_choice
from fletching.methods.multi_cpr.data import MultiCPRDataset, QueryKey
from fletching.methods.multi_cpr.evaluation import MultiCPREvaluator
from fletching.models.loading import load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fletching.methods.multi_cpr.recipe import MultiCPRRecipe

__all__ = ["DomainTable", "evaluate_domains", "plot_domains", "train_domains"]

_MEASURE = "mrr_at_10"
_TABLE_FILE = "domains.json"


@dataclass(frozen=True)
class DomainTable:
    """A measure of several systems on several domains.

    Args:
        values: System -> domain -> value.
        measure: What was measured.
        data_names: Domain -> name of its data set; it says where passages were left out.
    """

    values: Mapping[str, Mapping[str, float]]
    measure: str
    data_names: Mapping[str, str]

    def to_markdown(self) -> str:
        """Write the table, one row a system.

        Returns:
            Lines of Markdown.
        """
        rows = [[self.measure, *self.data_names], ["---"] * (len(self.data_names) + 1)]
        for system, values in self.values.items():
            rows.append([system, *(f"{values[domain]:.4f}" for domain in self.data_names)])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def evaluate_domains(
    models: Mapping[str, Any],
    datasets: Mapping[str, MultiCPRDataset],
    *,
    candidates: Mapping[str, Mapping[QueryKey, Sequence[str]]] | None = None,
    measure: str = _MEASURE,
    **options: Any,
) -> DomainTable:
    """Measure every system on every domain.

    Args:
        models: Name -> embedder, reranker or ``BM25``.
        datasets: Domain -> its data, usually the ``"dev"`` splits, the paper's test sets.
        candidates: Domain -> rankings for rerankers, see `MultiCPREvaluator`; ``None`` without any.
        measure: ``"mrr_at_10"`` or ``"recall_at_1000"``.
        **options: Keyword arguments of `MultiCPREvaluator`.

    Returns:
        The table.

    Raises:
        ArgumentError: If there is nothing to measure, or no such measure.
        DataError: If passages are missing or malformed.
    """
    if not models or not datasets:
        empty = "datasets" if models else "models"
        raise bad_argument("evaluate_domains", empty, "a mapping with at least one entry", {})
    values: dict[str, dict[str, float]] = {}
    for name, model in models.items():
        values[name] = {}
        for domain, dataset in datasets.items():
            found = candidates[domain] if candidates is not None else None
            metrics = MultiCPREvaluator(dataset, candidates=found, name="domain", **options)(model)
            measured = {key.removeprefix("domain_"): value for key, value in metrics.items()}
            check_choice("evaluate_domains", "measure", tuple(measured), measure)
            values[name][domain] = measured[measure]
    return DomainTable(values, measure, {domain: dataset.name for domain, dataset in datasets.items()})


def train_domains(
    recipe: MultiCPRRecipe,
    output_dir: str | Path,
    *,
    domains: Sequence[str] = DOMAINS,
    others: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> DomainTable:
    """Train a dual encoder on each domain, and measure each on the test sets of all of them.

    Args:
        recipe: What to train; its ``domain`` is replaced.
        output_dir: A folder for each domain's model is made in it, and ``domains.json`` with the table.
        domains: Which.
        others: Name -> further systems, such as ``{"BM25": BM25("chinese")}``; ``None`` without any.
        resume: Go on where a run was stopped; trained domains are not trained again.

    Returns:
        The table: rows ``"trained on ecom"`` and so on, then ``others``.

    Raises:
        ArgumentError: If the recipe trains something other than a dual encoder.
        DataError: If a file is missing or malformed.
    """
    if recipe.baseline != "dual_encoder":
        domain = "'dual_encoder', as a reranker needs candidates of every domain"
        raise bad_argument("train_domains", "recipe.baseline", domain, recipe.baseline)
    output = Path(output_dir)
    datasets, models = {}, dict[str, Any]()
    for domain in domains:
        folder = output / domain
        chosen = replace(recipe, domain=domain)
        if not (resume and chosen.is_done(folder)):
            chosen.run(folder, resume=resume)
        datasets[domain] = chosen.open_test(folder)
        models[f"trained on {domain}"] = load(folder, kind="embedder")
    table = evaluate_domains({**models, **(others or {})}, datasets, score=recipe.score, depth=recipe.depth)
    record = {"measure": table.measure, "data": table.data_names, "values": table.values}
    (output / _TABLE_FILE).write_text(json.dumps(record, indent=2), encoding="utf-8")
    return table


def plot_domains(table: DomainTable) -> Figure:
    """Draw a table as bars, one group a domain (extra ``plot``).

    Args:
        table: What to draw.

    Returns:
        The figure; save it by ``figure.savefig(path)``.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot, which keeps figures and picks a backend
    except ImportError as error:
        raise missing_extra("plot_domains", "matplotlib", "plot") from error
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    domains = list(table.data_names)
    width = 0.8 / len(table.values)
    for place, (name, values) in enumerate(table.values.items()):
        left = [number + (place - (len(table.values) - 1) / 2) * width for number in range(len(domains))]
        axes.bar(left, [values[domain] for domain in domains], width, label=name)
    axes.set_xticks(range(len(domains)), domains)
    axes.set(ylabel=table.measure, ylim=(0, 1))
    axes.legend()
    return figure
