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

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray

from bench.figures import READY_MADE, condense, markdown
from bench.tables import page_of, publish
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


class KeptPeer(Peer):
    """A peer that embeds the same crops once, however many artefacts it stands beside."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self._kept: dict[tuple[str, ...], NDArray[np.float32]] = {}

    def embed(
        self, records: Sequence[CropRecord], progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """Features of crops, `(n, d)` float32, in the order of the records."""
        shown = tuple(record.source for record in records)
        if shown not in self._kept:
            self._kept[shown] = super().embed(records, progress)
        return self._kept[shown]


def main(
    name: Annotated[str, typer.Argument(help="Of the table.")],
    data: Annotated[list[str], typer.Option(metavar="KIND:PATH")],
    artefact: Annotated[list[str], typer.Option(metavar="LABEL=ARTEFACT")],
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Where the reports are kept.")],
    peer: Annotated[list[Path] | None, typer.Option(help=".xml or .onnx")] = None,
    split: Annotated[Literal["all", "held-out"], typer.Option()] = "all",
    left_out: Annotated[
        bool, typer.Option("--left-out", help="Each artefact on sets it was not trained on.")
    ] = False,
    people: Annotated[int | None, typer.Option(help="At most so many of each set.")] = None,
    device: Annotated[str, typer.Option()] = "auto",
) -> None:
    """Measures what the command line names and writes the table.

    Raises:
        InputProblem: for an artefact, a peer or a data set that cannot be read, and where no page
            has the table's markers.
    """
    page_of(name)
    datasets = read_datasets(data)
    request = EvaluationRequest(
        scorings=None,
        held_out=split == "held-out",
        multi_shot=None,
        peers=[KeptPeer(file) for file in peer or []],
        premise=False,
        page=False,
        pictures=False,
        device=choose_device(device),
        people=people,
    )
    rows = []
    for word in artefact:
        label, equals, source = word.partition("=")
        if not equals:
            raise InputProblem(f"--artefact {word}: write it as LABEL=ARTEFACT")
        files = artefact_files([source])
        for stem, file in files.items():
            folder = runs / label / stem if len(files) > 1 else runs / label
            loaded = load_artefact(file)
            own = _left_out(stem, loaded, datasets) if left_out else datasets
            rows += condense(label, _measured(folder, stem, loaded, request, own))
    rows = joined(rows)
    publish(name, markdown(rows), rows)


def _measured(
    folder: Path,
    name: str,
    artefact: Artefact,
    request: EvaluationRequest,
    datasets: Sequence[Dataset],
) -> dict[str, Any]:
    """The report in a folder, measured where that of the same request is not there yet."""
    asked = {
        "artefact": artefact.description.artefact_fingerprint,
        "held_out": request.held_out,
        "people": request.people,
        "peers": [peer.name for peer in request.peers],
        "data": [dataset.spec for dataset in datasets],
    }
    kept, report_file = folder / "asked.json", folder / "report.json"
    if not kept.is_file() or json.loads(kept.read_text(encoding="utf-8")) != asked:
        make_folder(folder)
        report, _ = request.measure(name, artefact, datasets, progress_bar)
        write_report(folder, report)
        kept.write_text(json.dumps(asked), encoding="utf-8")
    found: dict[str, Any] = json.loads(report_file.read_text(encoding="utf-8"))
    return found


def _left_out(name: str, artefact: Artefact, datasets: Sequence[Dataset]) -> list[Dataset]:
    provenance = artefact.description.provenance
    found = [own for own in datasets if not trained_on(provenance, artefact.training, own)]
    if not found:
        raise InputProblem(
            f"{name}: was trained on every --data; train one with gmn train … --leave-out NAME, or "
            "measure it without --left-out"
        )
    return found


def joined(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of each data set together, its artefacts first, and then each peer once.

    A peer that was measured beside several artefacts has the same figures each time.
    """
    found: dict[tuple[object, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("data", "queries", "gallery", "model", "scoring"))
        known = found.setdefault(key, row)
        if known is not row and "ahead" in known:
            known["ahead"] = known["ahead"] | row.get("ahead", {})
    data = list(dict.fromkeys(row["data"] for row in rows))
    return sorted(
        found.values(), key=lambda row: (data.index(row["data"]), row["people"] == READY_MADE)
    )


if __name__ == "__main__":
    typer.run(main)
