"""The parts that service and trainer share: decoding, embedding, pair scoring, the artefact."""

import os

# This has to be set before torch loads OpenMP. By default the threads of OpenMP spin for
# milliseconds at every barrier. Where other processes use the same cores, threads wait for spinning
# ones, and a forward pass takes ten times as long. A setting of the environment comes first.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
