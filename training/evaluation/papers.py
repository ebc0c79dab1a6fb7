"""A paper's figures beside a run's, where the run is the paper's row: its recipe and its data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
    lines: dict[tuple[str, ...], list[PaperRow]] = {}
    for model, provenance, results in models:
        for row in paper_rows():
            for name, figures in row.figures.items():
                if trained_as(row, name, provenance):
                    ours = _ours(row.scoring, name, figures, provenance, results)
                    version = f", {figures.version}" if figures.version else ""
                    line = (model, f"{name}{version}", str(figures), ours)
                    lines.setdefault(line, []).append(row)
    return Table(
        "mAP / Rank-1, %",
        ["model", "row of the paper", "test set", "paper", "this run", "source"],
        [
            [line[0], rows[0].name, *line[1:], "; ".join(row.source for row in rows)]
            for line, rows in lines.items()
        ],
        "a paper's figure binds only at its own scale and on its own data",
        words=True,
    )


def trained_as(row: PaperRow, target: str, provenance: Provenance) -> bool:
    """Return whether an artefact has a row's recipe, and the data that it is tested by."""
    return row.is_of(provenance.recipe) and not data_differences(row.protocol, target, provenance)


def data_differences(protocol: str, target: str, provenance: Provenance) -> list[str]:
    """Where the sets and splits that an artefact was trained on are not a protocol's, in clauses.

    Args:
        protocol: its name; without one, a set is tested by what its own training split made.
        target: the set that is tested.
        provenance: the artefact's.
    """
    rules = PROTOCOLS.get(protocol)
    sources = set(rules.sources) - {target} if rules else {target}
    test_images = rules is not None and rules.test_images
    found = []
    known = {data.name for data in provenance.data}
    if known != sources:
        found.append(
            f"on {', '.join(sorted(known)) or 'nothing that it names'}; protocol {protocol} "
            f"trains on {', '.join(sorted(sources))}"
        )
    for data in provenance.data:
        # A set without splits trains whole by every protocol.
        tested = bool({"query", "gallery"} & set(data.splits or ()))
        if data.splits is not None and tested != test_images:
            found.append(
                f"on the {', '.join(data.splits)} images of {data.name}; protocol {protocol} "
                f"trains on {'the test images, too' if test_images else 'train alone'}"
            )
    return found


def people_differences(provenance: Provenance) -> list[str]:
    """Return where an artefact was trained on fewer people than its data hold, in clauses."""
    found = []
    if share := provenance.held_out.get("fraction", 0.0):
        found.append(f"on {1 - share:.0%} of the people; the protocol trains on all")
    if limit := provenance.recipe.get("sampling", {}).get("identities_per_set"):
        found.append(f"on at most {limit:,} people of each set; the protocol trains on all")
    return found


def _ours(
    scoring: str,
    name: str,
    figures: PaperFigures,
    provenance: Provenance,
    results: Sequence[DatasetResult],
) -> str:
    """A run's figures on a set; those of two versions of it, or of two rankings, do not compare."""
    found = []
    for result in results:
        if result.name != name:
            continue
        if figures.version and result.version != figures.version:
            found.append(
                f"measured on {result.version or 'another version'}, not on {figures.version}"
            )
        elif scoring not in result.scorings:
            found.append(f"not measured by {scoring}")
        else:
            metrics = result.scorings[scoring].metrics
            both = " / ".join(f"{100 * metrics[one].mean:.1f}" for one in ("mAP", "rank_1"))
            found.append(f"{scoring} {both}")
    found += [f"trained {one}" for one in people_differences(provenance)]
    found += [
        f"trained on {data.spec}, not on {figures.version}"
        for data in provenance.data
        if figures.version and data.spec.endswith(")") and f"({figures.version})" not in data.spec
    ]
    return "; ".join(found)
