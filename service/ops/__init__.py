"""Operation of the service process: audit, health, metrics, logs, files."""
