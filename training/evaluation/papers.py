"""A paper's figures beside a run's, where the run is the paper's row: its recipe and its data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from model.provenance import Provenance
from training.datasets.protocols import PROTOCOLS
from training.evaluation.results import DatasetResult
from training.evaluation.runs import deciding
from training.evaluation.tables import Table
from training.published import Published, PublishedResult
from training.recipe import RECIPES, read_recipe

Measured = tuple[str, Provenance, Sequence[DatasetResult]]
"""A model's name, where it comes from, and what was measured."""


def papers_table(models: Iterable[Measured]) -> Table:
    """A line for each figure that a paper reports of a model's own row; empty without any."""
    rows = [
        [name, row.row, *line, row.source]
        for name, provenance, results in models
        for row in published_rows(provenance.recipe)
        for line in _lines(row, provenance, results)
    ]
    return Table(
        "mAP / Rank-1, %",
        ["model", "row of the paper", "test set", "paper", "this run", "source"],
        rows,
        "a paper's figure binds only at its own scale and on its own data",
        words=True,
    )


def published_rows(recipe: Mapping[str, Any]) -> list[Published]:
    """The rows of the shipped recipe of that name whose every setting is the recipe's.

    Args:
        recipe: resolved, as an artefact stores it.
    """
    name = str(recipe.get("name"))
    if not (RECIPES / f"{name}.toml").is_file():
        return []
    return [row for row in read_recipe(name).published if _is_row(row, name, recipe)]


def _is_row(row: Published, name: str, recipe: Mapping[str, Any]) -> bool:
    made = read_recipe(name, [row.setting] if row.setting else [])
    return deciding(made.model_dump(mode="json")) == deciding(recipe)


def data_differences(
    protocol: str, sources: Set[str], test_images: bool, provenance: Provenance
) -> list[str]:
    """Where the sets and splits that an artefact was trained on are not a protocol's, in clauses.

    Args:
        protocol: what to call it.
        sources: the sets that it trains on.
        test_images: whether it trains on their query and gallery images, too.
        provenance: the artefact's.
    """
    found = []
    known = {data.name for data in provenance.data}
    if known != sources:
        found.append(
            f"on {', '.join(sorted(known)) or 'nothing that it names'}; {protocol} trains on "
            f"{', '.join(sorted(sources))}"
        )
    for data in provenance.data:
        # A set without splits trains whole by every protocol.
        tested = bool({"query", "gallery"} & set(data.splits or ()))
        if data.splits is not None and tested != test_images:
            found.append(
                f"on the {', '.join(data.splits)} images of {data.name}; {protocol} trains on "
                f"{'the test images, too' if test_images else 'train alone'}"
            )
    return found


def people_differences(provenance: Provenance) -> list[str]:
    """Where an artefact was trained on fewer people than its data hold, in clauses."""
    found = []
    if share := provenance.held_out.get("fraction", 0.0):
        found.append(f"on {1 - share:.0%} of the people; the protocol trains on all")
    if limit := provenance.recipe.get("sampling", {}).get("identities_per_set"):
        found.append(f"on at most {limit:,} people of each set; the protocol trains on all")
    return found


def _lines(
    row: Published, provenance: Provenance, results: Sequence[DatasetResult]
) -> list[list[str]]:
    """Test set, the paper's figures and the run's, for each set that the row's data test."""
    protocol = PROTOCOLS.get(row.protocol)
    found = []
    for name, figures in row.results.items():
        sources = set(protocol.sources) - {name} if protocol else {name}
        test_images = protocol is not None and protocol.test_images
        if data_differences(row.row, sources, test_images, provenance):
            continue
        ours = [_ours(own, figures) for own in results if own.name == name]
        differences = people_differences(provenance) + _version_differences(figures, provenance)
        reported = [figures.mean_average_precision, figures.rank_1]
        found.append(
            [
                f"{name}, {figures.version}" if figures.version else name,
                " / ".join(f"{figure:.1f}" for figure in reported if figure is not None),
                "; ".join([*ours, *(f"trained {one}" for one in differences)]),
            ]
        )
    return found


def _version_differences(figures: PublishedResult, provenance: Provenance) -> list[str]:
    """Training data that state another version of a set than the one of a paper's figure."""
    return [
        f"on {data.spec}, not on {figures.version}"
        for data in provenance.data
        if figures.version and data.spec.endswith(")") and f"({figures.version})" not in data.spec
    ]


def _ours(result: DatasetResult, figures: PublishedResult) -> str:
    """Figures of two versions of a set do not compare."""
    if figures.version and result.version != figures.version:
        return f"measured on {result.version or 'another version'}, not on {figures.version}"
    return ", ".join(
        f"{name} {100 * scoring.metrics['mAP'].mean:.1f} / "
        f"{100 * scoring.metrics['rank_1'].mean:.1f}"
        for name, scoring in result.scorings.items()
    )
