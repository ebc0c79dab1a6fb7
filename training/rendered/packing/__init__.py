"""Packs the meshes of MakeHuman into the one file that rendered people are drawn from."""
