"""A data set of one's own: a CSV manifest `path,identity,camera[,captured_at,split]`."""

from __future__ import annotations

from pathlib import Path

from model.crops.manifest import ManifestProblem, read_manifest
from training.datasets.folder import named_path
from training.datasets.kind import DatasetKind
from training.datasets.record import CropRecord, Dataset

TERMS = "Unknown: stated by the owner of the manifest."
TERMS_FILE = "TERMS.txt"


def read_manifest_dataset(path: str) -> Dataset:
    """Reads a manifest, or the `manifest.csv` of a folder.

    The set is named after the file, or after its folder where the file is `manifest.csv`. The first
    line of a `TERMS.txt` beside it becomes the terms.

    Raises:
        ManifestProblem: naming the first row that is wrong.
    """
    manifest = named_path(path)
    if manifest.is_dir():
        manifest = manifest / "manifest.csv"
    rows = read_manifest(manifest)
    name = dataset_name(manifest)
    records = tuple(
        CropRecord(
            source=str(row.path),
            dataset=name,
            # Every row has both: `read_manifest` requires them.
            identity=str(row.identity),
            camera=str(row.camera),
            domain=name,
            path=row.path,
            split=row.split,
            captured_at=row.captured_at,
        )
        for row in rows
    )
    return Dataset(
        name=name,
        spec=f"manifest:{path}",
        terms=stated_terms(manifest.parent, TERMS),
        records=records,
    )


def looks_like_manifest(path: Path) -> bool:
    """Whether the path is a CSV file or a folder with a `manifest.csv`."""
    return (path / "manifest.csv").is_file() or (path.suffix.lower() == ".csv" and path.is_file())


def dataset_name(manifest: Path) -> str:
    """What the set is called: `people` for `people.csv`, `shop` for `shop/manifest.csv`."""
    return manifest.stem if manifest.stem != "manifest" else manifest.resolve().parent.name


def stated_terms(folder: Path, unstated: str) -> str:
    """The first line of the `TERMS.txt` in a folder; `unstated` where there is none.

    Raises:
        ManifestProblem: if the file cannot be read.
    """
    file = folder / TERMS_FILE
    if not file.is_file():
        return unstated
    try:
        lines = file.read_text(encoding="utf-8-sig").strip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestProblem(f"{file}: cannot be read ({error}); save it as UTF-8 text") from error
    return lines[0].strip() if lines else unstated


KIND = DatasetKind(
    kind="manifest",
    path="a CSV file, or a folder with a manifest.csv",
    read=read_manifest_dataset,
    looks_like=looks_like_manifest,
    obtain="your own crops",
    terms=TERMS,
)
