"""Figures that a paper reports, kept in the recipe that remakes them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class PublishedResult(BaseModel):
    """A paper's figures on one test set, percent.

    Attributes:
        version: which `Dataset.version` they are of, where the set has several.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean_average_precision: float
    rank_1: float | None = None
    version: str = ""


class Published(BaseModel):
    """What a paper reports for one row of a table, to stand beside a run's own figures.

    Attributes:
        row: the row as the paper names it.
        source: paper and table.
        setting: the `--set` that makes this row of the recipe; empty is the recipe as it is.
        parameters_millions, gflops: the cost as the paper counts it.
        protocol: of domain generalisation, such as `P2`; empty where each test set is the one that
            is trained on.
        results: by test set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    row: str
    source: str
    setting: str = ""
    protocol: str = ""
    parameters_millions: float | None = None
    gflops: float | None = None
    results: dict[str, PublishedResult] = {}
