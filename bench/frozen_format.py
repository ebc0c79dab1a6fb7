"""Keeps how a released version writes a record, for the tests of later versions.

`make release VERSION=…` runs this. It writes, once for each format, a data directory and an export
with drawn people into tests/formats, and what a service answers about them.
"""

from __future__ import annotations

import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from packaging.version import Version

from bench.packages import PROJECT, ROOT
from demo.service import own_service
from demo.story import draw_cast, enroll_all
from gmn_client import Client
from service.postgres.database import schema as postgres_schema
from service.record.schema import FORMAT, schema_of_format

FOLDER = ROOT / "tests" / "formats"
DATA = "data.tar.gz"
EXPORT = "export.zip"
DESCRIPTION = "format.json"
POSTGRES = "postgres.sql"
GALLERY = "people"
ARTEFACT = "small"


def freeze_format(folder: Path) -> None:
    """Write a data directory and an export of this program, and what is in them, into a folder.

    The statements that create the tables in PostgreSQL are beside them.
    """
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="gmn-format-") as place:
        data = Path(place) / "data"
        with own_service(ARTEFACT, data_dir=data) as client:
            described = _fill(client, folder / EXPORT)
        with tarfile.open(folder / DATA, "w:gz") as packed:
            packed.add(data, "data")
    described |= {"format": FORMAT, "schema": [list(row) for row in schema_of_format()]}
    (folder / POSTGRES).write_text(f"{postgres_schema()}\n", encoding="utf-8")
    text = json.dumps(described, indent=1)
    (folder / DESCRIPTION).write_text(f"{text}\n", encoding="utf-8")


def _fill(client: Client, export: Path) -> dict[str, Any]:
    """Store people, a deletion, a merge and a case; return what a service of them has to answer."""
    client.create_gallery(GALLERY)
    client.gallery_name = GALLERY
    cast = draw_cast("synthetic", 1, 4, 0, 3)
    crops = enroll_all(client, cast.gallery)
    deleted = next(iter(crops))
    client.delete_crop(deleted)
    names = sorted({str(crop.identity) for crop in cast.gallery})
    client.rename_identity(names[0], names[1])
    answer = client.query(cast.known[2].read(), keep=True)
    case = client.create_case("A case")
    client.hold_search(case.case_id, str(answer.query_id), "A note")
    written = client.make_export()
    client.download_export(written.export_id, export)
    return {
        "version": PROJECT["version"],
        "crops": labels_of(client),
        "deleted": deleted,
        "case": client.case(case.case_id).model_dump(mode="json"),
    }


def labels_of(client: Client) -> dict[str, list[str | None]]:
    """Return identity and camera of each crop of a gallery, by its id."""
    return {crop.crop_id: [crop.identity, crop.camera] for crop in client.crops()}


if __name__ == "__main__":
    kept = FOLDER / str(FORMAT)
    if not Version(PROJECT["version"]).is_devrelease and not kept.exists():
        freeze_format(kept)
        sys.stdout.write(f"{kept}\n")
