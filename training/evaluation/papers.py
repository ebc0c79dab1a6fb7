"""A paper's figures beside a run's, where the run is the paper's row: its recipe and its data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set

from model.provenance import Provenance
from training.datasets.protocols import PROTOCOLS
from training.evaluation.results import DatasetResult
from training.evaluation.tables import Table
from training.papers import PaperFigures, PaperRow, paper_rows

Measured = tuple[str, Provenance, Sequence[DatasetResult]]
"""A model's name, where it comes from, and what was measured."""


def papers_table(models: Iterable[Measured]) -> Table:
    """A line for each figure that a paper reports of a model's own row; empty without any."""
    # Tables of one paper repeat rows: the same figure stands there once, with all its tables.
    sources: dict[tuple[str, str, str, str], list[str]] = {}
    names: dict[tuple[str, str, str, str], str] = {}
    for model, provenance, results in models:
        for row in paper_rows():
            if row.is_of(provenance.recipe):
                for line in _lines(row, provenance, results):
                    names.setdefault((model, *line), row.name)
                    sources.setdefault((model, *line), []).append(row.source)
    return Table(
        "mAP / Rank-1, %",
        ["model", "row of the paper", "test set", "paper", "this run", "source"],
        [[line[0], names[line], *line[1:], "; ".join(own)] for line, own in sources.items()],
        "a paper's figure binds only at its own scale and on its own data",
        words=True,
    )


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
    row: PaperRow, provenance: Provenance, results: Sequence[DatasetResult]
) -> Iterator[tuple[str, str, str]]:
    """Test set, the paper's figures and the run's, for each set that the row's data test."""
    protocol = PROTOCOLS.get(row.protocol)
    for name, figures in row.figures.items():
        sources = set(protocol.sources) - {name} if protocol else {name}
        test_images = protocol is not None and protocol.test_images
        if data_differences(row.name, sources, test_images, provenance):
            continue
        ours = [_ours(own, row.scoring, figures) for own in results if own.name == name]
        differences = people_differences(provenance) + _version_differences(figures, provenance)
        yield (
            f"{name}, {figures.version}" if figures.version else name,
            str(figures),
            "; ".join([*ours, *(f"trained {one}" for one in differences)]),
        )


def _version_differences(figures: PaperFigures, provenance: Provenance) -> list[str]:
    """Training data that state another version of a set than the one of a paper's figure."""
    return [
        f"on {data.spec}, not on {figures.version}"
        for data in provenance.data
        if figures.version and data.spec.endswith(")") and f"({figures.version})" not in data.spec
    ]


def _ours(result: DatasetResult, scoring: str, figures: PaperFigures) -> str:
    """Figures of two versions of a set, or of two rankings, do not compare."""
    if figures.version and result.version != figures.version:
        return f"measured on {result.version or 'another version'}, not on {figures.version}"
    if scoring not in result.scorings:
        return f"not measured by {scoring}"
    metrics = result.scorings[scoring].metrics
    return f"{scoring} {100 * metrics['mAP'].mean:.1f} / {100 * metrics['rank_1'].mean:.1f}"
