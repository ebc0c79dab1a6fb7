"""`gmn bench train`: real steps of a real run, each round against a bare one."""

from __future__ import annotations

from pathlib import Path

import torch

from bench.train import time_rounds
from training.datasets.synthetic import draw_people
from training.recipe import read_recipe
from training.run import prepare_run


def test_every_round_times_both_sides_within_one_run(tmp_path: Path) -> None:
    settings = ["initial_weights=none", "preprocessing.height=64", "preprocessing.width=32"]
    settings += ["sampling.identities=4", "sampling.images=2", "optimisation.epochs=50"]
    recipe = read_recipe("small-gmn", settings)
    records = draw_people(1, 2, 4, cameras_per_domain=2, crops_per_camera=1).records
    run = prepare_run(recipe, records, tmp_path, device_name="cpu")
    ours, theirs = time_rounds(run, steps=1, rounds=2, settling=1)
    assert len(ours) == len(theirs) == 2
    assert min(ours + theirs) > 0
    weights = run.networks.embedder.backbone.get_parameter("0.0.weight")
    assert torch.isfinite(weights).all()
