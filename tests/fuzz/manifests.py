"""Reading a manifest: `python -m tests.fuzz.manifests --seconds 120`."""

import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["csv", "model.crops"]):
    import csv  # noqa: F401

    from model.crops.manifest import ManifestProblem, read_manifest

from tests.fuzz.harness import fuzz
from tests.hostile import test_manifests

PLACE = tempfile.TemporaryDirectory(prefix="fuzz-manifests-")
FOLDER = Path(PLACE.name).resolve()
(FOLDER / "a.png").write_bytes(b"a")
(FOLDER / "b.png").write_bytes(b"b")


def read(data):
    manifest = FOLDER / "manifest.csv"
    manifest.write_bytes(data)
    for row in read_manifest(manifest, within=FOLDER):
        assert row.path.is_relative_to(FOLDER)
        assert row.identity
        assert row.camera
        row.identity.encode()


if __name__ == "__main__":
    taken = [*test_manifests.TAKEN.values(), *(text for text, _ in test_manifests.CASES.values())]
    fuzz(read, (text for text in taken if len(text) < 10_000), ManifestProblem)
