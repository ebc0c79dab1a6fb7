"""The loss terms, one per file."""
