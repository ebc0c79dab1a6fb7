"""`gmn bench`: ratios of two figures that are measured in one run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from gmn_client.commands.common import Shown, table_of
from service.commands.options import printed

Name = StrEnum(
    "Name",
    [
        "embed",
        "enroll",
        "query",
        "serve",
        "parts",
        "pairs",
        "scale",
        "writers",
        "machines",
        "alerts",
        "start",
    ],
)
COLUMNS = {
    "bench": "bench",
    "ratio": "ratio",
    "range": "spread",
    "aim": "reach",
    "details": "text",
}
ARTEFACT_HELP = (
    "A file, or a shipped name, for all but scale, writers and machines. By default it is bundled, "
    "and small as well for embed, enroll, query, serve and start."
)
DATABASE_HELP = "A database of PostgreSQL for machines, in which it makes schemas and drops them."
AGAINST_HELP = (
    "The folder of another checkout, whose service takes part in the rounds of embed, enroll, "
    "query, serve and start."
)
FEATURES_HELP = "Draw the crops of scale like the people of this file of gmn embed."


@printed
def bench(
    names: Annotated[list[Name], Argument(help="What to measure.")],
    artefact: Annotated[str | None, Option(help=ARTEFACT_HELP)] = None,
    against: Annotated[Path | None, Option(help=AGAINST_HELP)] = None,
    crops: Annotated[
        int, Option(min=1, help="The largest gallery of scale and machines.")
    ] = 100_000,
    features: Annotated[Path | None, Option(help=FEATURES_HELP)] = None,
    database: Annotated[str | None, Option(help=DATABASE_HELP, envvar="GMN_DATABASE_URL")] = None,
) -> Shown:
    """Measures how fast this machine starts, embeds, enrolls, searches, compares pairs and alerts.

    Example: gmn bench serve --json
    """
    results: list[Any] = []
    for name in names:
        # These imports take seconds, which the help does not need. Only pairs needs PyTorch.
        if name is Name.scale:
            from bench.scale import bench_scale

            results.append(bench_scale(crops, features))
        elif name is Name.writers:
            from bench.writers import bench_writers

            results.append(bench_writers())
        elif name is Name.machines:
            from bench.machines import bench_machines

            results += bench_machines(database, crops)
        elif name is Name.parts:
            from bench.parts import bench_parts

            results.append(bench_parts(artefact))
        elif name is Name.pairs:
            from bench.pairs import bench_pairs

            results.append(bench_pairs(artefact))
        elif name is Name.alerts:
            from bench.alerts import bench_alerts

            results.append(bench_alerts(artefact))
        elif name is Name.start:
            from bench.start import bench_start

            results += bench_start(artefact, against)
        else:
            from bench.serve import bench_serving

            results += bench_serving(name, artefact, against)
    return Shown([result._asdict() for result in results], table_of(results, COLUMNS))
