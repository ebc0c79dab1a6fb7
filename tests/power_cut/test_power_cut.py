"""After a power cut at any moment everything acknowledged is there, and nothing deleted.

`make power-cut CUTS=600 SEED=1` tries more of them.
"""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.app import create_app
from service.ops.numbered_lines import check_numbers
from service.settings import Settings
from tests.power_cut.acts import Act
from tests.power_cut.cuts import cut_and_check, differences
from tests.power_cut.disk import Asked, read_recording
from tests.power_cut.recording import build_recorder, recorded
from tests.power_cut.shown import (
    asked_in_audit,
    forgotten_pictures,
    found_by_search,
    keys_in,
    logged_deletions,
    shown_by,
    wait_for_jobs,
)
from tests.power_cut.story import Story

pytestmark = pytest.mark.slow
# The reserve is written again after every cut.
RESERVED_DISK_BYTES = 65536

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient


@dataclass(frozen=True)
class Recording:
    """Return the requests of a service to the disk, and those of its clients meanwhile."""

    root: Path
    asked: list[Asked]
    acts: list[Act]
    artefact: Path
    image: bytes
    key: str


@pytest.fixture(scope="module")
def recording(start, tiny_artefact, drawn_crops, tmp_path_factory):
    folder = tmp_path_factory.mktemp("power_cut")
    root = folder / "disk"
    log = folder / "log"
    root.mkdir()
    with recorded(build_recorder(folder), root, log):
        # The recorder is loaded by a process as it begins.
        served = start(
            forked=False,
            data_dir=root / "data",
            images_url=f"file://{root}/pictures",
            reserved_disk_bytes=RESERVED_DISK_BYTES,
        )
        story = Story(served, root / "data", drawn_crops)
        story.tell()
        served.kill()
    return Recording(
        root, read_recording(log), story.acts, tiny_artefact, drawn_crops[0].png, story.key
    )


@contextlib.contextmanager
def _served_again(recording, disk):
    """Yield the service in this process, on the files that a power cut has left."""
    data_dir = disk / "data"
    settings = Settings(
        artefact=str(recording.artefact),
        data_dir=data_dir,
        images_url=f"file://{disk}/pictures",
        device="cpu",
        runtime="openvino",
        reserved_disk_bytes=RESERVED_DISK_BYTES,
    )
    app = create_app(settings)
    here = ("127.0.0.1", 50000)
    with TestClient(app, base_url="http://localhost", client=here) as client:
        yield client


@pytest.mark.promise("1")
def test_after_a_power_cut_everything_acknowledged_is_there(recording, tmp_path):
    def check(disk, past, under_way):
        data_dir = disk / "data"
        with _served_again(recording, disk) as client:
            if keys_in(data_dir):
                client.headers["Authorization"] = f"Bearer {recording.key}"
            wait_for_jobs(client)
            found = shown_by(client, data_dir)
            wrong = differences(found, past, under_way)
            if client.app.state.runtime.record.database.older_copy:
                wrong.append("the record is taken for an older copy")
            for name in [key.removeprefix("crops of ") for key in found if key[:8] == "crops of"]:
                crops = len(found[f"crops of {name}"])
                if crops != found_by_search(client, name, recording.image):
                    wrong.append(f"a search in {name} does not find the {crops} that are listed")
        return wrong + _left_wrong(disk, past)

    wrong = cut_and_check(
        recording.root,
        recording.asked,
        recording.acts,
        check,
        tmp_path,
        few=36,
        report="power_cut.json",
    )
    assert not wrong, "\n".join(wrong)


def _left_wrong(disk, past):
    """Return the faults of files that no call shows."""
    wrong = []
    lines = check_numbers(disk / "data" / "audit.jsonl")
    if lines.problem:
        wrong.append(f"audit log {lines.problem}")
    if strays := forgotten_pictures(disk / "pictures", disk / "data"):
        wrong.append(f"pictures of crops that are gone: {strays}")
    if past and asked_in_audit(disk / "data") < past.asked:
        wrong.append("the audit log has lost what was asked")
    if past and (lost := past.logged - logged_deletions(disk / "data")):
        wrong.append(f"the log of deletions has lost {sorted(lost)}")
    return wrong
