import threading

import numpy as np
import pytest
import torch
from PIL import Image

from model.artefact import load_artefact
from model.metric_network import cosine_similarities, score_pairs
from model.problems import InputProblem
from tests.training.runs import write_manifest
from training.datasets.record import CropRecord
from training.datasets.registry import read_dataset
from training.evaluation.embedding import SearchFeatures, decoded_batches, embed_records
from training.evaluation.metrics import PairLabels
from training.evaluation.scoring import cosine_rows, open_scores


@pytest.fixture(scope="module")
def artefact(tiny_artefact):
    return load_artefact(tiny_artefact)


@pytest.fixture
def records(drawn_crops, tmp_path):
    return list(read_dataset(write_manifest(tmp_path / "people.csv", drawn_crops)).records)


def test_features_are_those_of_the_embedder_itself(artefact, records):
    preprocessing = artefact.description.preprocessing
    crop = torch.tensor(preprocessing.resize(records[3].decode()).copy())[None]
    with torch.inference_mode():
        alone = artefact.embedder(preprocessing.normalise(crop))[0].numpy()
    features = embed_records(artefact.embedder, preprocessing, records)
    np.testing.assert_allclose(features[3], alone, rtol=1e-3, atol=1e-4)


def test_a_network_in_training_is_left_in_training(artefact, records):
    before = {name: value.clone() for name, value in artefact.embedder.state_dict().items()}
    artefact.embedder.train()
    embed_records(artefact.embedder, artefact.description.preprocessing, records)
    assert artefact.embedder.training
    artefact.embedder.eval()
    after = artefact.embedder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_no_more_than_two_batches_are_decoded_at_once(artefact):
    alive = 0
    peak = 0
    lock = threading.Lock()

    class Counted(CropRecord):
        def decode(self):
            nonlocal alive, peak
            with lock:
                alive += 1
                peak = max(peak, alive)
            return Image.new("RGB", (32, 64))

    records = [Counted(str(number), "drawn", "1", "a", "drawn") for number in range(100)]
    for batch in decoded_batches(records, artefact.description.preprocessing, 10):
        with lock:
            alive -= len(batch)
    assert peak <= 20


def test_an_unreadable_crop_is_named(artefact, records):
    records[7].path.write_bytes(b"no image")
    with pytest.raises(InputProblem, match=r"7\.png"):
        embed_records(artefact.embedder, artefact.description.preprocessing, records)


def test_stored_scores_equal_the_reference(tiny_artefact):
    network = load_artefact(tiny_artefact).metric_network
    features = torch.randn(40, 1280, generator=torch.Generator().manual_seed(1))
    queries = features[:21]
    gallery = features[21:]
    labels = PairLabels(*(np.zeros(size, np.int64) for size in (21, 21, 19, 19)))
    kept = SearchFeatures(queries.numpy(), gallery.numpy())
    with open_scores(network, kept, labels) as scores:
        np.testing.assert_allclose(
            scores.mnet(slice(0, 21)), score_pairs(network, queries, gallery).numpy(), rtol=1e-5
        )
    np.testing.assert_allclose(
        cosine_rows(queries.numpy(), gallery.numpy())(slice(3, 9)),
        cosine_similarities(queries[3:9], gallery).numpy(),
        atol=1e-6,
    )
