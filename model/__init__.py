"""The parts that service and trainer share: decoding, embedding, pair scoring, the artefact."""

import os

# Before torch loads OpenMP. By default its threads spin for milliseconds at every barrier: where
# others want the cores too (clients, replicas, a second process) each waits for spinning ones, and
# a forward pass takes ten times as long. The environment's own setting comes first.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
