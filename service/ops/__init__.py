"""Operation of the service process: audit, threads, metrics, logs, files."""
