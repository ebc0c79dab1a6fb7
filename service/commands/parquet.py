"""`gmn gallery export`: a served gallery's crops with their vectors, as Parquet files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from gmn_client import Client, RequestRefused
from gmn_client.models import Crop
from model.problems import InputProblem
from service.commands.common import Shown, progress_bar, with_client

# With vectors of 2,048 numbers a file stays below what an import takes.
CROPS_PER_FILE, PICTURE_BYTES_PER_FILE = 5_000, 32 * 1024 * 1024
# An import reads the pictures of one at a time.
CROPS_PER_ROW_GROUP = 256
# With its picture, where that is kept and asked for.
ExportedCrop = tuple[Crop, bytes | None]
TEXTS = ("crop_id", "identity", "camera", "external_id", "sha256")


@with_client
def export(
    client: Client,
    gallery: Annotated[str, Argument(metavar="NAME", help="Which gallery.")],
    folder: Annotated[Path, Argument(help="A new or empty folder for the files.")],
    pictures: Annotated[bool, Option("--pictures", help="Write the kept pictures too.")] = False,
) -> Shown:
    """Writes a gallery's crops with labels and vectors as Parquet files, while it is served.

    What is enrolled or deleted meanwhile may be among it or not. gmn enroll FOLDER enrolls them in
    a gallery of the same model; a reindex of that one needs their pictures.

    Example: gmn gallery export lobby runs/lobby
    """
    if find_spec("pyarrow") is None:
        raise InputProblem("pyarrow is not installed; pip install 'gmn-reid[parquet]'")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise InputProblem(f"{folder}: is not empty; name a new folder")
    total = 0
    with progress_bar() as bar:
        task = bar.add_task("Exporting", total=client.gallery(gallery).crops or None)
        for number, crops in enumerate(_parts(client, gallery, pictures)):
            _write(folder / f"crops-{number:05d}.parquet", crops, pictures)
            total += len(crops)
            bar.update(task, completed=total)
    text = f"{total:,} crops of gallery {gallery} are in {folder}."
    return Shown({"gallery": gallery, "crops": total, "folder": str(folder)}, text)


def _parts(client: Client, gallery: str, pictures: bool) -> Iterator[list[ExportedCrop]]:
    part: list[ExportedCrop] = []
    picture_bytes = 0
    for crop in client.crops(gallery=gallery, include_vector=True):
        # One without was deleted as it was read.
        if crop.vector is not None:
            if part and part[0][0].embedding_fingerprint != crop.embedding_fingerprint:
                raise InputProblem(
                    f"gallery {gallery} went over to another model meanwhile; export it again"
                )
            picture = _picture(client, gallery, crop) if pictures else None
            picture_bytes += len(picture or b"")
            part.append((crop, picture))
        if len(part) == CROPS_PER_FILE or picture_bytes >= PICTURE_BYTES_PER_FILE:
            yield part
            part, picture_bytes = [], 0
    if part:
        yield part


def _picture(client: Client, gallery: str, crop: Crop) -> bytes | None:
    try:
        return client.image(crop.crop_id, gallery) if crop.image_url else None
    except RequestRefused as refusal:
        if refusal.problem.status != 404:
            raise
        return None


def _write(path: Path, exported: Sequence[ExportedCrop], pictures: bool) -> None:
    import pyarrow
    from pyarrow import parquet

    crops = [crop for crop, _ in exported]
    columns: dict[str, Any] = {
        name: pyarrow.array([getattr(one, name) for one in crops], pyarrow.string())
        for name in TEXTS
    }
    times = [one.captured_at for one in crops]
    columns["captured_at"] = pyarrow.array(times, pyarrow.timestamp("us", "UTC"))
    metadata = [None if one.metadata is None else json.dumps(one.metadata) for one in crops]
    columns["metadata"] = pyarrow.array(metadata, pyarrow.string())
    vectors = [one.vector for one in crops]
    columns["vector"] = pyarrow.array(vectors, pyarrow.list_(pyarrow.float32()))
    if pictures:
        columns["image"] = pyarrow.array([picture for _, picture in exported], pyarrow.binary())
    made_by = {"embedding_fingerprint": str(crops[0].embedding_fingerprint)}
    table = pyarrow.table(columns).replace_schema_metadata(made_by)
    # Under its name it is complete.
    part = path.with_suffix(".part")
    parquet.write_table(table, part, row_group_size=CROPS_PER_ROW_GROUP)
    part.rename(path)
