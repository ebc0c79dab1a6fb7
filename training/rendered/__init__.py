"""Rendered people: crops for training that show nobody, drawn from free meshes."""
