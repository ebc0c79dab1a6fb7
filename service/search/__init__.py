"""The search: rows, index, ranking, calibration, the query."""
