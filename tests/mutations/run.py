"""`make mutations`: breaks each promise on purpose and sees the test named beside it fail.

The working tree is copied, so that nothing of it is touched. Each test is run unbroken first: one
that fails by itself would prove nothing. A mutant counts as found only where its test fails by an
assertion of its own; an error of a fixture, of the code or of another test proves nothing either.
The outcomes are written to docs/reliability.md. `--only` leaves those of other mutants as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.mutations.broken import OUTCOMES, ROOT, read_broken
from tests.mutations.failures import VARIABLE
from tests.reliability import keep, publish_tables

LIMIT_SECONDS = 400
SHOWN_CHARACTERS = 3000


@dataclass(frozen=True)
class Ran:
    """One run of pytest: whether it passed, its failures as the plug-in wrote them, its output."""

    passed: bool
    failures: list[dict[str, object]]
    output: str
    seconds: float


def main():
    """Return 0 where every mutant was found."""
    mutants = read_mutants()
    with tempfile.TemporaryDirectory(prefix="mutations-") as place:
        copy = _copy(Path(place) / "project")
        commit = _git("rev-parse", "--short", "HEAD").strip()
        for test in sorted({mutant.test for mutant in mutants}):
            ran = run_test(copy, test)
            if not ran.passed:
                output = ran.output[-SHOWN_CHARACTERS:]
                _say(f"{test} does not pass although nothing is broken:\n{output}")
                return 1
        outcomes = [_outcome(copy, mutant) for mutant in mutants]
    _keep(outcomes, commit)
    found = sum(bool(outcome["failed"]) for outcome in outcomes)
    _say(f"{found} of {len(outcomes)} were found")
    return 0 if found == len(outcomes) else 1


def read_mutants(arguments=None):
    """Return the mutants that the command line asks for: all of them without `--only`."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations.run", description=__doc__)
    parser.add_argument(
        "--only",
        metavar="TEXT",
        action="append",
        default=[],
        help="only mutants whose `says` in broken.toml has this text; repeatable",
    )
    texts = parser.parse_args(arguments).only
    mutants = read_broken()
    for text in texts:
        if not any(text in mutant.says for mutant in mutants):
            parser.error(f"--only: no entry of tests/mutations/broken.toml says {text!r}")
    if not texts:
        return mutants
    return [mutant for mutant in mutants if any(text in mutant.says for text in texts)]


def run_test(root, test, most_failures=1):
    """Run a test, or a file of them, named as pytest names it, in a copy of the project."""
    written = root.parent / "failures.jsonl"
    written.write_text("")
    command = [
        sys.executable,
        "-m",
        "pytest",
        f"--maxfail={most_failures}",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    command += ["-p", "tests.mutations.failures", test]
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "PYTHONDONTWRITEBYTECODE": "1",
        VARIABLE: str(written),
    }
    began = time.monotonic()
    try:
        ran = subprocess.run(
            command,
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        passed = ran.returncode == 0
        output = ran.stdout + ran.stderr
    except subprocess.TimeoutExpired:
        passed = False
        output = f"no end within {LIMIT_SECONDS} s"
    failures = [json.loads(line) for line in written.read_text().splitlines()]
    return Ran(passed, failures, output, time.monotonic() - began)


def is_found(test, ran):
    """Return whether the test, or a case of it, failed by an assertion of its own."""
    return any(
        failure["asserted"] and str(failure["test"]).partition("[")[0] == test.partition("[")[0]
        for failure in ran.failures
    )


def _outcome(copy, mutant):
    file = copy / mutant.file
    whole = file.read_text()
    file.write_text(mutant.text(copy))
    try:
        ran = run_test(copy, mutant.test)
    finally:
        file.write_text(whole)
    found = is_found(mutant.test, ran)
    verdict = f"found by {mutant.test}" if found else "NOT FOUND"
    _say(f"promise {mutant.promise}: {mutant.says}: {verdict} ({ran.seconds:.0f} s)")
    if not found:
        _say("".join(f"  {failure['test']}: {failure['error']}\n" for failure in ran.failures))
        _say(ran.output[-SHOWN_CHARACTERS:])
    return {
        "promise": mutant.promise,
        "says": mutant.says,
        "failed": found,
        "tests": [mutant.test.rpartition("::")[2]] if found else [],
    }


def _copy(place):
    listed = _git("ls-files", "--cached", "--others", "--exclude-standard", "-z")
    for name in listed.split("\0"):
        source = ROOT / name
        if name and source.is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place / name)
    return place


def _keep(outcomes, commit):
    kept = json.loads(OUTCOMES.read_text())["broken"] if OUTCOMES.exists() else []
    by_words = {outcome["says"]: outcome for outcome in [*kept, *outcomes]}
    listed = [by_words[mutant.says] for mutant in read_broken() if mutant.says in by_words]
    keep(
        "mutations",
        {"date": f"{datetime.now(UTC):%Y-%m-%d}", "commit": commit, "broken": listed},
    )
    publish_tables()


def _git(*arguments):
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout


def _say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
