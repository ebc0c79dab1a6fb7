"""The record: what survives a crash; its rules are written once above two engines."""
