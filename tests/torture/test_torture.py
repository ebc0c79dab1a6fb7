"""Ten cycles of the crash driver; `make torture` runs many more."""

import pytest

from tests.service.conftest import save_other_artefact
from tests.torture.run import torture

pytestmark = [pytest.mark.slow, pytest.mark.promise("1")]

CYCLES = [
    None,
    "enroll.crop-written",
    "export.in-place",
    "import.unpacked",
    "record.committed",
    None,
    "forget-identity.before-jobs",
    "delete-export.renamed",
    None,
    "import.batch-landed",
]


def test_what_was_acknowledged_is_there_after_every_crash(tiny_artefact, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    other_artefact = tmp_path / "other.safetensors"
    save_other_artefact(other_artefact, tiny_artefact)
    figures = torture(CYCLES, "seventeen", [tiny_artefact, other_artefact])
    assert figures["writes"]["acknowledged"] > 0
    assert figures["kills"]["failpoint"] == sum(point is not None for point in CYCLES)
