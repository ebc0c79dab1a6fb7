"""The nearest by cosine hold M-Net's best, so that a search needs no index of M-Net's own.

A recall over M-Net's whole ranking, measured for every artefact that ships and has an M-Net.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.scale import ScaleCrops
from model.artefact import load_artefact, read_description, shipped_artefacts
from model.metric_network import cosine_similarities, score_pairs
from model.runtimes import OpenVinoRuntime
from service.search.options import RERANK_DEPTH
from training.datasets.registry import read_dataset
from training.evaluation.embedding import embed_records

REAL = Path(os.environ.get("REID_TEST_DATA", "nowhere")) / "cuhk01"
RESULTS = 10
# How many of the nearest by cosine hold all of M-Net's best ten; other artefacts need more.
NEAREST = {"bundled": 15, "small": 15}
QUERIES = 20
CROPS = 500
WITH_M_NET = [
    name for name, file in shipped_artefacts().items() if "mnet" in read_description(file).scorings
]


@pytest.fixture(scope="module")
def served(served_here):
    return served_here


@pytest.mark.parametrize("name", WITH_M_NET)
def test_the_nearest_by_cosine_hold_the_best_of_m_net(name, tmp_path):
    """Draw people from the features of drawn crops."""
    artefact = load_artefact(shipped_artefacts()[name])
    records = read_dataset("synthetic:3,identities=8,domains=1,cameras=2").records
    features = embed_records(artefact.embedder, artefact.description.preprocessing, records)
    identities = np.array([record.identity for record in records])
    np.savez(tmp_path / "features.npz", features=features, identities=identities)
    drawn = ScaleCrops(tmp_path / "features.npz")
    gallery = np.stack([crop.vector for crop in drawn.crops(0, CROPS)])
    deepest = deepest_place(artefact.metric_network, drawn.queries(QUERIES, CROPS), gallery)
    assert deepest <= NEAREST.get(name, RERANK_DEPTH)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="needs $REID_TEST_DATA")
@pytest.mark.parametrize("name", NEAREST)
def test_the_nearest_real_crops_by_cosine_hold_the_best_of_m_net(name):
    artefact = load_artefact(shipped_artefacts()[name])
    resize = artefact.description.preprocessing.resize
    records = read_dataset(f"cuhk01:{REAL}").records[: QUERIES + CROPS]
    # OpenVINO embeds them in a third of PyTorch's time.
    runtime = OpenVinoRuntime(artefact, "float32")
    features = runtime.embed(
        np.stack([resize(Image.fromarray(record.decode())) for record in records])
    )
    order = np.random.default_rng(0).permutation(len(features))
    queries, gallery = np.split(features[order], [QUERIES])
    assert deepest_place(artefact.metric_network, queries, gallery) <= NEAREST[name]


def deepest_place(metric_network, queries, gallery):
    """Return how many of the nearest by cosine hold M-Net's best results of every query."""
    asked = torch.from_numpy(queries)
    shown = torch.from_numpy(gallery)
    with torch.inference_mode():
        scores = score_pairs(metric_network, asked, shown).numpy()
        cosines = cosine_similarities(asked, shown).numpy()
    best = np.argsort(-scores, axis=1)[:, :RESULTS]
    places = np.argsort(np.argsort(-cosines, axis=1), axis=1)
    return int(np.take_along_axis(places, best, axis=1).max()) + 1
