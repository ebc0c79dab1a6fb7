"""Market-1501 in its official protocol, from a drawn miniature and from the real set."""

import json
import os
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.conftest import draw_crops
from training.commands.evaluate import evaluate

pytestmark = pytest.mark.slow

REAL = Path(os.environ.get("REID_TEST_DATA", "nowhere")) / "market1501"


def measured(*words: object) -> dict:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(evaluate)
    answer = CliRunner().invoke(app, [str(word) for word in words])
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout)["datasets"][0]


def test_queries_are_searched_in_the_gallery_with_distractors_and_without_junk(
    tiny_artefact: Path, tmp_path: Path
) -> None:
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (tmp_path / folder).mkdir()
    for number, crop in enumerate(draw_crops()):
        camera = 1 + ("east", "west").index(crop.camera)
        # Two people to train on, two to search for, a distractor, and one who is junk.
        name = {"4": "0000", "5": "-1"}.get(crop.identity[-1], f"{int(crop.identity) + 1:04d}")
        folders = ["bounding_box_train"] if crop.identity[-1] in "01" else ["bounding_box_test"]
        if crop.identity[-1] in "23" and number % 2 == 0:
            folders = ["query"]
        for folder in folders:
            file = tmp_path / folder / f"{name}_c{camera}s1_{number:06d}_00.jpg"
            file.write_bytes(crop.png)
    found = measured(
        tiny_artefact, "--data", f"market1501:{tmp_path}", "--scoring", "cosine", "--json"
    )
    assert found["protocol"] == "query and gallery splits"
    # 2 people × 2 cameras; the other half of their crops, and 4 each of distractor and junk.
    assert (found["queries"], found["gallery"]) == (4, 12)
    assert 0.0 < found["scorings"]["cosine"]["metrics"]["mAP"]["mean"] <= 1.0


@pytest.mark.skipif(not REAL.is_dir(), reason="needs $REID_TEST_DATA")
def test_some_people_of_the_real_set_are_searched_among_distractors(tmp_path: Path) -> None:
    (tmp_path / "bounding_box_train").symlink_to(REAL / "bounding_box_train")
    people = sorted({file.name[:4] for file in (REAL / "query").glob("*.jpg")})[:12]
    for folder in ("query", "bounding_box_test"):
        (tmp_path / folder).mkdir()
        files = sorted((REAL / folder).glob("*.jpg"))
        shown = [file for file in files if file.name[:4] in people]
        for file in shown + [file for file in files if file.name[:4] == "0000"][:100]:
            (tmp_path / folder / file.name).symlink_to(file)
    found = measured(
        "bundled@1", "--data", f"market1501:{tmp_path}", "--scoring", "cosine", "--json"
    )
    assert found["protocol"] == "query and gallery splits"
    assert found["seen_in_training"] is False
    metrics = found["scorings"]["cosine"]["metrics"]
    assert 0.3 < metrics["rank_1"]["mean"] <= 1.0
    assert metrics["mAP"]["low"] < metrics["mAP"]["mean"] < metrics["mAP"]["high"]
