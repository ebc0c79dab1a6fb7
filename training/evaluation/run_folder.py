"""A run's folder as `gmn train` or `gmn evaluate --out` left it, read back for its report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from model.artefact import Artefact, load_artefact, resolve_artefact
from model.problems import InputProblem
from training.evaluation import query_values, training_log
from training.evaluation.query_values import QueryValues, read_query_values
from training.evaluation.results import EvaluationReport
from training.evaluation.training_log import TrainingLog, read_training_log

REPORT, ARTEFACT = "report.json", "model.safetensors"


@dataclass(frozen=True)
class RunFolder:
    """What lies in one run's folder.

    Attributes:
        name: what a page calls its artefact.
        path: the folder.
        report: its `report.json`.
        values: every query's own figures, by a data set's number; empty for older runs.
        log: of its training, empty where the folder is an evaluation's.
    """

    name: str
    path: Path
    report: EvaluationReport
    values: Mapping[int, QueryValues]
    log: TrainingLog

    def load_artefact(self) -> Artefact:
        """The artefact that the report is about.

        Raises:
            InputProblem: where it is in none of the usual places, or is another one by now.
        """
        named = resolve_artefact(self.report.artefact)
        places = (self.path / ARTEFACT, self.path.parent / ARTEFACT, named)
        for place in places:
            if not place.is_file():
                continue
            artefact = load_artefact(place)
            if artefact.description.artefact_fingerprint == self.report.artefact_fingerprint:
                return artefact
        raise InputProblem(
            f"{self.path}: its artefact {self.report.artefact} is not there any more, or is "
            f"another one; put it beside the report as {ARTEFACT}"
        )


def read_run(word: str) -> RunFolder:
    """Reads a folder, or `NAME=FOLDER` to have it shown under a name.

    Raises:
        InputProblem: naming the folder and what is missing or damaged in it.
    """
    name, equals, rest = word.partition("=")
    named = bool(equals) and not Path(word).exists()
    path = Path(rest if named else word)
    file = path / REPORT
    if not file.is_file():
        raise InputProblem(
            f"{path}: holds no {REPORT}; name a folder made by gmn train or gmn evaluate --out"
        )
    try:
        report = EvaluationReport.model_validate_json(file.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise InputProblem(
            f"{file}: is no report of this program ({str(error).splitlines()[0]}); "
            "run gmn evaluate --out again"
        ) from error
    return RunFolder(
        name=name if named else _name(report, path),
        path=path,
        report=report,
        values=read_query_values(path / query_values.FILE_NAME),
        log=read_training_log(path / training_log.FILE_NAME),
    )


def _name(report: EvaluationReport, path: Path) -> str:
    """The folder that a training made, a better name than `model.safetensors`."""
    artefact = Path(report.artefact)
    if artefact.name != ARTEFACT:
        return artefact.stem
    return artefact.parent.name or path.resolve().name
