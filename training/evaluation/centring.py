"""Centre the features of a search by the means of its gallery's cameras."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from model.arrays import unit_rows
from model.centring import ShownCrops, fit_means, measure_gain
from training.datasets.record import Dataset
from training.datasets.registry import showing_people
from training.evaluation.embedding import SearchFeatures
from training.evaluation.results import CentringResult
from training.evaluation.searches import Search


class CentredSearch(NamedTuple):
    """A search by centred vectors.

    Attributes:
        features: unit vectors minus the mean of their camera, at unit length again. They are the
            features of the search if the gallery shows too few people for a mean.
        result: the number of means, and the gain.
    """

    features: SearchFeatures
    result: CentringResult


def centre_search(dataset: Dataset, search: Search, features: SearchFeatures) -> CentredSearch:
    """Centre queries and gallery by means that are learned from the gallery alone.

    Identities of the gallery decide only which crop of each person a mean takes, and who is left
    out of the means to measure the gain. A query's camera that has no mean takes the gallery's.

    Args:
        dataset, search: the data set and its search. In random splits the means are learned from
            the crops of all splits' galleries.
        features: features of the search.
    """
    labels = search.labels()
    people = {record.identity for record in showing_people(dataset.spec, search.gallery)}
    rows = np.array([record.identity in people for record in search.gallery])
    crops = ShownCrops(
        unit_rows(features.gallery[rows]),
        labels.gallery_cameras[rows],
        labels.gallery_identities[rows],
    )
    cameras = np.union1d(labels.query_cameras, labels.gallery_cameras)
    means = fit_means(crops)
    if means is None:
        return CentredSearch(features, CentringResult(cameras=len(cameras)))
    gain = measure_gain(crops, np.ones(len(crops.shown), np.bool_))
    centred = SearchFeatures(
        means.centre(unit_rows(features.queries), labels.query_cameras),
        means.centre(unit_rows(features.gallery), labels.gallery_cameras),
    )
    result = CentringResult(
        cameras=len(cameras),
        cameras_with_mean=len(means.cameras),
        is_centred=True,
        gain=None if gain is None else gain.gain,
        gain_error=None if gain is None else gain.standard_error,
        gain_is_clear=gain is not None and gain.is_clear,
    )
    return CentredSearch(centred, result)
