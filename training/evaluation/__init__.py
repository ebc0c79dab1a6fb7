"""Ranking metrics, calibration, protocols and reports; knows nothing of the trainer."""
