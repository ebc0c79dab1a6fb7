"""Costs of the manifests of imports, each read twice as an import does; a line of JSON for each.

By itself, so that the peak of the memory is this alone: python -m tests.hostile.costly_manifests
"""

import json
import sys
import tempfile
import uuid
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from model.problems import InputProblem
from service.jobs.import_files import read_import
from service.store.export_rows import FORMAT
from tests.hostile.measuring import print_cost

MEBIBYTE = 1024 * 1024
HEADER = "path,crop_id,sha256,quality,created_at,identity,metadata\n"
TIME = "2026-01-02T03:04:05Z"
LONG = f'"{{""note"": ""{"n" * 16_000}""}}"'
DESCRIPTION = {
    "format": FORMAT,
    "gallery": "lobby",
    "settings": {},
    "version": 1,
    "embedding_fingerprint": "any",
    "pictures": 0,
    "created_at": TIME,
    "expires_at": "2026-02-02T03:04:05Z",
}


def write_export(folder, crops, metadata):
    """Write an export of crops without pictures."""
    with (folder / "manifest.csv").open("w") as manifest:
        manifest.write(HEADER)
        for number in range(crops):
            values = f"{number:064x},0.5,{TIME},Person {number}"
            manifest.write(f",{uuid.UUID(int=number, version=4).hex},{values},{metadata}\n")
    np.save(folder / "vectors.npy", np.ones((crops, 1), np.float32))
    description = {**DESCRIPTION, "crops": crops}
    (folder / "gmn-export.json").write_text(json.dumps(description))


def write_few(folder):
    write_export(folder, 10, "")


def write_many_rows(folder):
    write_export(folder, 20_000, "")


def write_long_rows(folder):
    write_export(folder, 1_600, LONG)


def write_most_rows(folder):
    write_export(folder, 400_000, '"{""note"": ""seen at night, by the gate""}"')


def write_most_bytes(folder):
    write_export(folder, 13_200, LONG)


def write_one_row(folder):
    """Write a row of many values, each of which ends a line."""
    write_few(folder)
    with (folder / "manifest.csv").open("a") as manifest:
        for _ in range(200):
            manifest.write('"\n",' * (MEBIBYTE // 4))


WRITERS = {
    "few rows": write_few,
    "many rows": write_many_rows,
    "long rows": write_long_rows,
    "one row": write_one_row,
    "most rows": write_most_rows,
    "most bytes": write_most_bytes,
}


def read(root):
    settings = SimpleNamespace(import_dir=root)
    job = SimpleNamespace(parameters={"folder": "export"}, progress={})
    try:
        content = read_import(settings, job, root, lambda: None)
        return f"{sum(1 for _ in content.read_items(0))} crops"
    except InputProblem as problem:
        return str(problem)


def main():
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "export"
            folder.mkdir()
            WRITERS[name](folder)
            size = (folder / "manifest.csv").stat().st_size
            print_cost(name, size, lambda: read(Path(place)))


if __name__ == "__main__":
    main()
