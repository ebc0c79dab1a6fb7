"""Drawn people: a data set that shows nobody, for tests, demonstrations and training."""

from training.datasets.synthetic.people import draw_people, read_synthetic

__all__ = ["draw_people", "read_synthetic"]
