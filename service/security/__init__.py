"""API keys: made once, kept as hashes, checked in constant time."""
