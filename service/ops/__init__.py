"""Operation of a served process: audit, health, metrics, logs, files."""
