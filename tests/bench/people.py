"""A file of features of drawn people, whose spectrum falls as real features' does."""

import numpy as np

from model.feature_file import Origin
from training.evaluation.files import write_features

PEOPLE = 1000
CROPS = 8


def write_people(folder, dimension):
    random = np.random.default_rng(0)
    people = np.repeat(np.arange(PEOPLE), CROPS)
    spectrum = (1 + np.arange(dimension)) ** -0.5
    centres = random.standard_normal((PEOPLE, dimension))[people]
    features = spectrum * (centres + 0.7 * random.standard_normal(centres.shape))
    path = folder / "people.npz"
    columns = {"identities": [str(person) for person in people]}
    write_features(path, features.astype(np.float32), columns, Origin("drawn"))
    return path
