"""Measured ratios, one file per bench."""
