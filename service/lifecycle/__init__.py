"""Forgetting, retention, snapshots, maintenance."""
