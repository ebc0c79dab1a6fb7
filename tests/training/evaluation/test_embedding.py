import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from model.artefact import Artefact, load_artefact
from model.problems import InputProblem
from training.datasets.record import CropRecord
from training.evaluation.embedding import decoded_batches, embed_records


@pytest.fixture(scope="module")
def artefact(tiny_artefact: Path) -> Artefact:
    return load_artefact(tiny_artefact)


@pytest.fixture
def records(drawn_crops, tmp_path: Path) -> list[CropRecord]:
    found = []
    for number, crop in enumerate(drawn_crops):
        path = tmp_path / f"{number}.png"
        path.write_bytes(crop.png)
        found.append(CropRecord(str(path), "drawn", crop.identity, crop.camera, "drawn", path))
    return found


def test_features_do_not_depend_on_the_batch_they_rode_in(artefact, records):
    preprocessing = artefact.description.preprocessing
    together = embed_records(artefact.embedder, preprocessing, records)
    apart = embed_records(artefact.embedder, preprocessing, records, batch_size=5)
    assert together.shape == (24, 1280)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, apart, rtol=1e-3, atol=1e-4)


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


def test_bfloat16_gives_nearly_the_same_directions(artefact, records):
    preprocessing = artefact.description.preprocessing
    exact = torch.from_numpy(embed_records(artefact.embedder, preprocessing, records))
    rough = torch.from_numpy(
        embed_records(artefact.embedder, preprocessing, records, bfloat16=True)
    )
    assert torch.nn.functional.cosine_similarity(exact, rough).min() > 0.95


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
            return np.zeros((64, 32, 3), dtype=np.uint8)

    records = [Counted(str(number), "drawn", "1", "a", "drawn") for number in range(100)]
    for batch in decoded_batches(records, artefact.description.preprocessing, 10):
        with lock:
            alive -= len(batch)
    assert peak <= 20


def test_progress_adds_up_to_the_number_of_crops(artefact, records):
    told: list[int] = []
    embed_records(
        artefact.embedder, artefact.description.preprocessing, records, 10, progress=told.append
    )
    assert told == [10, 10, 4]


def test_an_unreadable_crop_is_named(artefact, records):
    records[7].path.write_bytes(b"no image")
    with pytest.raises(InputProblem, match=r"7\.png"):
        embed_records(artefact.embedder, artefact.description.preprocessing, records)


def test_nothing_to_embed_is_refused(artefact):
    with pytest.raises(InputProblem, match="no crop"):
        embed_records(artefact.embedder, artefact.description.preprocessing, [])
