"""Rows of a benchmark in a document: their paired differences and their origin."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.figures import condense_rows, markdown, origins_table
from bench.tables import page_of, replace_table

FIGURE = {"mean": 0.5, "low": 0.4, "high": 0.6}
METRICS = {"mAP": FIGURE, "rank_1": FIGURE}


def run(folder: Path, seed: int, gain: float) -> str:
    """Return a run whose M-Net is ahead of its cosine by `gain`, the same for every query."""
    place = folder / "small-gmn-0" / "campus" / f"seed-{seed}"
    (place / "tests" / "street").mkdir(parents=True)
    cosine = np.array([0.2, 0.4, 0.6], np.float32)
    values: dict[str, Any] = {
        f"0/{ranking}/{metric}": cosine + added
        for ranking, added in (("cosine", 0.0), ("mnet", gain))
        for metric in METRICS
    }
    values |= {"0/search": np.array("d1e57" * 8), "0/identities": np.array([0, 0, 1])}
    np.savez(place / "tests" / "street" / "queries.npz", **values)
    sources = [{"name": "start.pth", "sha256": "a" * 64}]
    provenance = {"commit": "c0ffee1" * 5, "command": "gmn benchmark", "sources": sources}
    provenance |= {"data": [{"name": "campus", "crops": 24}]}
    (place / "report.json").write_text(json.dumps({"provenance": provenance}))
    (place / "model.safetensors").write_bytes(b"weights")
    return str(place)


@pytest.fixture
def report(tmp_path: Path) -> dict[str, Any]:
    row = {"group": "GMN", "ranking": "mnet", "metrics": METRICS, "differences": METRICS}
    dataset = {"name": "street", "queries": 3, "gallery": 9, "identities": 2}
    return {
        "table": {"name": "small/gmn", "rows": [{"name": "GMN", "scoring": "mnet"}]},
        "datasets": [dataset | {"rankings": [row | {"ranking": "cosine"}, row]}],
        "runs": {"GMN": [run(tmp_path, 0, 0.1), run(tmp_path, 1, 0.3)]},
    }


def test_a_row_has_its_ranking_alone_and_what_this_adds_to_the_cosine_of_the_same_runs(
    report: dict[str, Any],
) -> None:
    (row,) = condense_rows(report)["rows"]
    assert (row["row"], row["ranking"], row["seeds"]) == ("GMN", "mnet", 2)
    mean, low, high = row["over_cosine"]["mAP"]
    assert mean == pytest.approx(0.2)
    # People agree; two seeds that differ by 0.2 leave a wide interval.
    assert low < 0 < high


def test_a_table_names_commit_weights_and_searches_and_keeps_each_run(
    report: dict[str, Any],
) -> None:
    kept = condense_rows(report)
    first, second = kept["origin"]["runs"]
    assert first["run"] == "small-gmn-0/campus/seed-0"
    assert second["data"] == {"campus": 24}
    assert first["artefact_sha256"] == hashlib.sha256(b"weights").hexdigest()
    text = markdown(kept)
    assert "| street | GMN | mnet | 2 | 50.0 [40.0, 60.0] | +50.0 [+40.0, +60.0] | +20.0 [" in text
    assert "Commit c0ffee1; initial weights: start.pth SHA-256 aaaaaaaaaaaa" in text
    assert "street d1e57d1e57d1" in text


def test_the_page_names_the_files_and_sources_of_the_artefacts_that_ship() -> None:
    page = page_of("origins").read_text(encoding="utf-8")
    assert replace_table(page, "origins", origins_table()) == page
