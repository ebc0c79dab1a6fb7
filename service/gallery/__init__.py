"""Galleries: the record that survives, and the index that is derived from it."""
