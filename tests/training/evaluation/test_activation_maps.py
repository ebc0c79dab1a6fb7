import csv
import json

import numpy as np
import pytest
import torch

from model.architecture import EmbedderConfig, MultiscaleConfig
from model.artefact import load_artefact
from model.embedder import Embedder
from model.problems import InputProblem
from training.commands.evaluate import evaluate, report
from training.datasets.record import CropRecord, Dataset
from training.evaluation.activation_maps import choose_crops, draw_maps, overlay, stage_maps
from training.evaluation.report import PAGES, ActivationMaps


@pytest.fixture(scope="module")
def evaluated(fast_artefact, drawn_crops, tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    with (folder / "people.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "identity", "camera"])
        for number, crop in enumerate(drawn_crops):
            (folder / f"{number}.png").write_bytes(crop.png)
            rows.writerow([f"{number}.png", crop.identity, crop.camera])
    spec = f"manifest:{folder / 'people.csv'}"
    evaluate(str(fast_artefact), [spec], out=folder / "run", device="cpu")
    return folder / "run", spec


def record(identity, shot=0):
    pixels = np.random.default_rng(shot).integers(0, 255, (60, 30, 3), dtype=np.uint8)
    return CropRecord(f"{identity}/{shot}", "drawn", identity, "c1", "drawn", pixels=pixels)


def test_a_map_is_the_sum_over_channels_of_unit_length():
    embedder = Embedder(EmbedderConfig(backbone="resnet18")).eval()
    batch = torch.randn(2, 3, 64, 32)
    maps = stage_maps(embedder, batch)
    assert {name: tuple(values.shape) for name, values in maps.items()} == {
        "stage 1": (2, 16, 8),
        "stage 2": (2, 8, 4),
        "stage 3": (2, 4, 2),
        "stage 4": (2, 4, 2),
    }
    with torch.inference_mode():
        last = embedder.backbone(batch).abs().sum(dim=1)
    expected = last / last.flatten(1).norm(dim=1)[:, None, None]
    assert torch.allclose(maps["stage 4"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("csip", "msff", "names"),
    [
        (True, True, ["P3", "P4", "P5", "P3 fused", "P4 fused", "P5 fused"]),
        (False, False, []),
    ],
)
def test_scales_have_maps_of_their_own_before_and_after_they_are_fused(csip, msff, names):
    scales = MultiscaleConfig(stages=(2, 3, 4), channels=16, csip=csip, msff=msff)
    config = EmbedderConfig(backbone="resnet18", pooling="average", multiscale=scales)
    maps = stage_maps(Embedder(config).eval(), torch.randn(1, 3, 64, 32))
    assert list(maps)[4:] == names
    assert all(
        values.flatten(1).norm(dim=1).item() == pytest.approx(1, abs=1e-4)
        for values in maps.values()
    )


def test_what_a_map_marks_is_bright_and_what_it_does_not_is_dark():
    energy = np.zeros((4, 2), dtype=np.float32)
    energy[0, 0] = 1.0
    drawn = np.asarray(overlay(np.zeros((64, 32, 3), dtype=np.uint8), energy))
    assert drawn.shape == (64, 32, 3)
    assert drawn[:8, :8].mean() > 100
    assert drawn[40:].mean() < 10


def test_the_same_people_are_chosen_every_time_one_crop_each_and_no_junk():
    names = ["-1", "0000", *(f"{person:02d}" for person in range(20))]
    records = tuple(record(name, shot) for name in names for shot in range(3))
    dataset = Dataset("market1501", "market1501:/x", "free", records)
    chosen = [crop.identity for crop in choose_crops(dataset, 4)]
    assert chosen == ["00", "06", "13", "19"]
    assert len(choose_crops(dataset, 100)) == 20
    with pytest.raises(InputProblem, match="no person"):
        choose_crops(Dataset("none", "synthetic:2", "free", ()))


def test_models_stand_side_by_side_over_the_same_crops(fast_artefact):
    artefact = load_artefact(fast_artefact)
    records = [record("first"), record("<second>", 1)]
    drawn = draw_maps(artefact, records, torch.device("cpu"))
    assert [list(maps) for maps in drawn] == [["stage 1", "stage 2", "stage 3", "stage 4"]] * 2
    assert np.asarray(drawn[0]["stage 4"]).shape == (64, 32, 3)
    page = PAGES.from_string(
        '{% from "parts.html" import activation_maps %}{{ activation_maps(maps) }}'
    )
    html = page.render(maps=ActivationMaps(records, {"baseline": drawn, "full": drawn}))
    assert html.count("<img") == 2 * (1 + 4 + 4)
    assert 'alt="first, camera c1: stage 2 of full"' in html
    assert "<second>" not in html


def test_a_report_shows_maps_verification_and_cost(evaluated, tmp_path):
    run, spec = evaluated
    report([str(run)], out=tmp_path, maps=spec, crops=2, device="cpu")
    page = (tmp_path / "report.html").read_text()
    assert "Where the networks look" in page
    assert "TAR@FAR" in page
    assert "M-Net, one pair" in page
    speed = json.loads((run / "report.json").read_text())["images_per_second"]
    assert speed > 0
    assert f"{speed} images/s" in page


def test_a_comparison_shows_the_maps_of_each_model(evaluated, tmp_path):
    run, spec = evaluated
    words = [f"one={run}", f"two={run}"]
    report(words, out=tmp_path, maps=spec, crops=2, device="cpu")
    assert "Where the networks look" in (tmp_path / "report.html").read_text()


def test_maps_of_an_artefact_that_was_replaced_are_refused(evaluated, tmp_path):
    run, spec = evaluated
    found = json.loads((run / "report.json").read_text())
    found["artefact_fingerprint"] = "0" * 64
    (tmp_path / "report.json").write_text(json.dumps(found))
    (tmp_path / "queries.npz").write_bytes((run / "queries.npz").read_bytes())
    with pytest.raises(InputProblem, match="is not there any more, or is another one"):
        report([str(tmp_path)], out=tmp_path / "page", maps=spec)
