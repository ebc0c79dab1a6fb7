"""Every artefact and ready-made model on every data set, in one run on the same crops.

`python -m bench.standings held-out --split held-out --data SPEC… --artefact bundled=bundled
--artefact small=small --peer FILE… --runs runs/standings` measures each artefact with each of its
scorings and each peer by cosine: mAP, Rank-1, and the share found at 1% false alarms with half of
the people enrolled, with paired differences between each artefact's default scoring and each peer.
It writes `RUNS/LABEL/report.json`, `docs/figures/NAME.json`, and the table between the markers
`<!-- NAME -->` and `<!-- /NAME -->` of the page that has them. What RUNS has already is not
measured again. A peer embeds a crop once, however many artefacts there are. With `--left-out` an
artefact is measured only on the sets that it was not trained on, and one LABEL may stand for the
folder of runs that `gmn train --protocol lodo` makes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.figures import READY_MADE, condense, page_of, write_table
from model.artefact import Artefact, load_artefact
from model.precision import choose_device
from model.problems import InputProblem
from training.commands.progress import progress_bar
from training.datasets.record import CropRecord, Dataset
from training.datasets.registry import read_datasets
from training.evaluation.embedding import Progress
from training.evaluation.files import make_folder
from training.evaluation.peers import Peer
from training.evaluation.report_page import write_report
from training.evaluation.request import EvaluationRequest
from training.evaluation.unseen import artefact_files, trained_on

REPORT = "report.json"


class KeptPeer(Peer):
    """A peer that keeps its features of the crops that it was last shown, by data set."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self._kept: dict[str, tuple[tuple[CropRecord, ...], NDArray[np.float32]]] = {}

    def embed(
        self, records: Sequence[CropRecord], progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """Features of crops, `(n, d)` float32, in the order of the records."""
        own = tuple(records)
        shown, features = self._kept.get(own[0].dataset, ((), np.empty(0, np.float32)))
        if not _same(shown, own):
            features = super().embed(records, progress)
            self._kept[own[0].dataset] = (own, features)
        elif progress:
            progress(len(own))
        return features


def main(arguments: Sequence[str]) -> None:
    """Measures what the command line names and writes the table.

    Raises:
        InputProblem: for an artefact, a peer or a data set that cannot be read, and where no page
            has the table's markers.
    """
    asked = _parser().parse_args(arguments)
    page_of(asked.name)
    datasets = read_datasets(asked.data)
    request = EvaluationRequest(
        scorings=None,
        held_out=asked.split == "held-out",
        multi_shot=None,
        peers=[KeptPeer(file) for file in asked.peer],
        premise=False,
        page=False,
        pictures=False,
        device=choose_device(asked.device),
        people=asked.people,
    )
    rows = []
    for word in asked.artefact:
        label, equals, name = word.partition("=")
        if not equals:
            raise InputProblem(f"--artefact {word}: write it as LABEL=ARTEFACT")
        files = artefact_files([name])
        for stem, file in files.items():
            folder, loaded = asked.runs / label, load_artefact(file)
            if len(files) > 1:
                folder /= stem
            own = _left_out(stem, loaded, datasets) if asked.left_out else datasets
            if not _is_measured(folder, loaded, request, own):
                make_folder(folder)
                report, _ = request.measure(stem, loaded, own, progress_bar)
                write_report(folder, report)
            rows += condense(label, json.loads((folder / REPORT).read_text(encoding="utf-8")))
    write_table(asked.name, artefacts_first(without_repeats(rows)))


def _left_out(name: str, artefact: Artefact, datasets: Sequence[Dataset]) -> list[Dataset]:
    provenance = artefact.description.provenance
    found = [own for own in datasets if not trained_on(provenance, artefact.training, own)]
    if not found:
        raise InputProblem(
            f"{name}: was trained on every --data; train one with gmn train … --leave-out NAME, or "
            "measure it without --left-out"
        )
    return found


def without_repeats(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """The rows with each peer once: measured beside several artefacts, its figures are the same."""
    found: dict[tuple[object, ...], dict[str, object]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("data", "queries", "gallery", "model", "scoring"))
        known = found.setdefault(key, row)
        if known is not row and isinstance(known.get("ahead"), dict):
            known["ahead"] = {**known["ahead"], **row.get("ahead", {})}  # type: ignore[dict-item]
    return list(found.values())


def artefacts_first(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """The rows of each data set together, in which ready-made models follow the artefacts."""
    order = {name: place for place, name in enumerate(dict.fromkeys(row["data"] for row in rows))}
    return sorted(rows, key=lambda row: (order[row["data"]], row["people"] == READY_MADE))


def _is_measured(
    folder: Path, artefact: Artefact, request: EvaluationRequest, datasets: Sequence[Dataset]
) -> bool:
    """Whether a folder has the report of this artefact on these sets, beside these peers."""
    file = folder / REPORT
    if not file.is_file():
        return False
    report = json.loads(file.read_text(encoding="utf-8"))
    people = {own["name"]: own["identities"] for own in report["datasets"]}
    return (
        report["artefact_fingerprint"] == artefact.description.artefact_fingerprint
        and report["split"] == ("held-out" if request.held_out else "all")
        and [own["spec"] for own in report["datasets"]] == [own.spec for own in datasets]
        and all(
            set(own["peers"]) == {peer.name for peer in request.peers} for own in report["datasets"]
        )
        and all(count == people[name] for name, count in _people(artefact, request, datasets))
    )


def _people(
    artefact: Artefact, request: EvaluationRequest, datasets: Sequence[Dataset]
) -> list[tuple[str, int]]:
    """How many people each set is to be searched with."""
    return [
        (dataset.name, len({record.identity for record in search.records}))
        for dataset, search in request.searches(artefact, datasets)
    ]


def _same(one: Sequence[CropRecord], other: Sequence[CropRecord]) -> bool:
    """Whether two lists are of the same crops, in the same order."""
    return [record.source for record in one] == [record.source for record in other]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the table")
    parser.add_argument("--data", action="append", required=True, help="KIND:PATH; repeatable")
    parser.add_argument("--artefact", action="append", required=True, help="LABEL=ARTEFACT")
    parser.add_argument("--peer", action="append", type=Path, default=[], help=".xml or .onnx")
    parser.add_argument("--runs", type=Path, required=True, help="where the reports are kept")
    parser.add_argument("--split", choices=("all", "held-out"), default="all")
    parser.add_argument(
        "--left-out", action="store_true", help="each artefact on sets that it was not trained on"
    )
    parser.add_argument("--people", type=int, default=None, help="at most so many of each set")
    parser.add_argument("--device", default="auto")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
