"""Write the report of an evaluation: one self-contained HTML page, and a JSON file."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from pydantic import BaseModel

from training.datasets.record import CropRecord
from training.evaluation import charts, report_tables
from training.evaluation.files import replacing
from training.evaluation.results import DatasetResult, EvaluationReport
from training.evaluation.runs import QUERY_VALUES, write_query_values
from training.evaluation.searches import Search
from training.evaluation.tables import difference

PICTURE = (64, 128)
QUALITY = 80


def jpeg(picture: Image.Image) -> str:
    """Encode a picture in RGB as a small JPEG in base64."""
    file = io.BytesIO()
    small = picture.resize(PICTURE, Image.Resampling.LANCZOS)
    small.save(file, "JPEG", quality=QUALITY)
    return base64.b64encode(file.getvalue()).decode("ascii")


PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
PAGES.filters |= {
    "base64": lambda text: base64.b64encode(text.encode()).decode("ascii"),
    "jpeg": jpeg,
    "sentence": lambda text: text[:1].upper() + text[1:],
    "difference": difference,
}


class ActivationMaps(NamedTuple):
    """Activation maps of several models over the same crops.

    Attributes:
        crops: the crops.
        models: by a model's name, the maps that `draw_maps` returned for these crops.
    """

    crops: Sequence[CropRecord]
    models: Mapping[str, Sequence[Mapping[str, Image.Image]]]


def write_page(
    folder: Path,
    name: str,
    content: BaseModel,
    template: str,
    page: str = "",
    **shown: Any,
) -> None:
    """Write figures as JSON, and as an HTML page that loads nothing from elsewhere.

    Args:
        folder: the folder to write to; it is created if it does not exist.
        name: the name of the JSON file, without its suffix.
        content: the content of the JSON file.
        template: a file in `templates`; all texts in it are escaped.
        page: the name of the page, without its suffix, if it differs from `name`.
        shown: the variables of the template.

    Raises:
        InputProblem: the folder cannot be written.
    """
    files = {
        f"{name}.json": content.model_dump_json(indent=2) + "\n",
        f"{page or name}.html": PAGES.get_template(template).render(shown),
    }
    for file, text in files.items():
        with replacing(folder / file) as temporary:
            temporary.write_text(text, encoding="utf-8")


def write_report(
    folder: Path,
    report: EvaluationReport,
    pictures: Sequence[Search] = (),
    maps: ActivationMaps | None = None,
) -> None:
    """Write `report.json`, `queries.npz` and `report.html` into a folder.

    Args:
        folder: the folder to write to; it is created if it does not exist.
        report: the report.
        pictures: the search of each data set, whose crops the page shows; if empty, it shows
            nobody.
        maps: activation maps for the page.

    Raises:
        InputProblem: the folder cannot be written.
    """
    write_query_values(folder / QUERY_VALUES, [result.query_values for result in report.datasets])
    provenance = report.provenance
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    about = {
        "artefact_fingerprint": report.artefact_fingerprint,
        "embedding_fingerprint": report.embedding_fingerprint,
        "calibrated_on": report.calibration_data,
    } | provenance.model_dump(mode="json", exclude={"data", "recipe", "metrics"})
    premise = report.premise
    write_page(
        folder,
        "report",
        report,
        "evaluation.html",
        title=f"Evaluation of {'/'.join(Path(report.artefact).parts[-2:])}",
        summary=f"{report.created_at}, split {report.split}, {machine}, "
        f"{report.images_per_second} images/s",
        report=report,
        parts=[
            _dataset_part(result, search)
            for result, search in zip_longest(report.datasets, pictures)
        ],
        premise_table=report_tables.premise(premise) if premise else None,
        premise_charts=[charts.scatter(space) for space in premise.projections] if premise else [],
        maps=maps,
        cost_table=report_tables.networks(report.cost) if report.cost else None,
        artefact_tables=[
            report_tables.training_data(provenance),
            report_tables.sources(provenance),
        ],
        settings_table=report_tables.settings(provenance.recipe or report.architecture),
        provenance=json.dumps(about, indent=2, ensure_ascii=False),
    )


def _dataset_part(result: DatasetResult, search: Search | None) -> dict[str, Any]:
    """Return the variables of a data set's part of the page, by their names in the template."""
    return {
        "result": result,
        "tables": report_tables.dataset_tables(result),
        "first_look": charts.first_look(result),
        "histograms": [
            charts.histogram(name, scoring, scoring.distribution)
            for name, scoring in result.scorings.items()
            if scoring.distribution
        ],
        "search": search,
    }
