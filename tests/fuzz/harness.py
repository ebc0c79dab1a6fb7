"""The loop of every fuzz target: its seeds, bounds on time and memory, and its findings.

A target is a function that is given bytes. An exception that it does not declare
is a finding, and so are five seconds for one input, and a gigabyte of memory. The input is kept as
`crash-…`, `timeout-…` or `oom-…` in the folder named by `--artefacts`.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

SECONDS_PER_INPUT = 5
MAX_MEMORY_MB = 2048
MAX_LENGTH = 65_536


def fuzz(target, seeds, declared):
    """Run a target until the time or the number of runs is over; the exit status tells of findings.

    Args:
        target: is called with each input.
        seeds: inputs to begin with.
        declared: exceptions that it may raise.
    """
    said = argparse.ArgumentParser()
    said.add_argument("--seconds", type=int, default=0, help="how long; 0 for no end")
    said.add_argument("--runs", type=int, default=-1, help="how many inputs; -1 for no end")
    said.add_argument("--seed", type=int, default=0, help="the same again; 0 draws one")
    said.add_argument("--artefacts", type=Path, default=Path("runs/fuzz"), help="where finds go")
    options = said.parse_args()
    options.artefacts.mkdir(parents=True, exist_ok=True)

    def run(data):
        try:
            target(data)
        except declared:
            return

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds):
            (Path(corpus) / f"{number:05d}").write_bytes(seed[:MAX_LENGTH])
        arguments = [
            f"-max_total_time={options.seconds}",
            f"-runs={options.runs}",
            f"-seed={options.seed}",
            f"-timeout={SECONDS_PER_INPUT}",
            f"-rss_limit_mb={MAX_MEMORY_MB}",
            f"-max_len={MAX_LENGTH}",
            f"-artifact_prefix={options.artefacts}/",
            "-print_final_stats=1",
        ]
        atheris.Setup([sys.argv[0], *arguments, corpus], run)
        atheris.Fuzz()
