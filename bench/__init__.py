"""Measurements of the service, the networks and galleries, and the tables made from them."""
