import tracemalloc

import numpy as np

from model.artefact import load_artefact
from model.metric_network import cosine_similarities, score_pairs
from training.evaluation.embedding import SearchFeatures
from training.evaluation.metrics import PairLabels
from training.evaluation.scoring import cosine_rows, open_scores


def test_stored_scores_equal_the_reference(tiny_artefact):
    import torch

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


def test_cosine_copies_no_features():
    gallery = np.random.default_rng(0).normal(size=(50_000, 64)).astype(np.float32)
    tracemalloc.start()
    cosine_rows(gallery[:2], gallery)(slice(0, 2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000  # the gallery is 12.8 MB
