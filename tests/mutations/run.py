"""`make mutations`: breaks every promise on purpose and sees its test fail.

The working tree is copied, so that nothing of it is touched. Each test is run unbroken first: one
that fails by itself would prove nothing. What came out stands in docs/reliability.md.
`ONLY=words` runs those whose description has the words, and keeps the others as they were.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.mutations.broken import OUTCOMES, ROOT, Broken, read_broken
from tests.reliability import keep

LIMIT_SECONDS = 400
TESTS_FAILED = 1


def main() -> int:
    """0 where every test that has to fail does."""
    only = os.environ.get("ONLY", "")
    wanted = [one for one in read_broken() if only in one.says]
    with tempfile.TemporaryDirectory(prefix="mutations-") as place:
        copy = _copy(Path(place) / "project")
        for test in sorted({one.test for one in wanted}):
            status, said, _ = _run(copy, test)
            if status != 0:
                _say(f"{test} fails although nothing is broken:\n{said[-3000:]}")
                return 1
        found = [_outcome(copy, one) for one in wanted]
    _keep(found)
    missed = [one for one in found if not one["failed"]]
    _say(f"{len(found) - len(missed)} of {len(found)} were found")
    return 1 if missed else 0


def _outcome(copy: Path, one: Broken) -> dict[str, object]:
    file = copy / one.file
    whole = file.read_text()
    file.write_text(one.text(copy))
    try:
        status, said, seconds = _run(copy, one.test)
    finally:
        file.write_text(whole)
    names = sorted(set(re.findall(r"^(?:FAILED|ERROR) \S+?::(\w+)", said, re.MULTILINE)))
    failed = status == TESTS_FAILED and bool(names)
    verdict = "found by " + ", ".join(names) if failed else "NOT FOUND"
    _say(f"promise {one.promise}: {one.says}: {verdict} ({seconds:.0f} s)")
    if not failed:
        _say(said[-1500:])
    return {"promise": one.promise, "says": one.says, "failed": failed, "tests": names}


def _run(copy: Path, test: str) -> tuple[int, str, float]:
    began = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", test],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    return ran.returncode, ran.stdout + ran.stderr, time.monotonic() - began


def _copy(place: Path) -> Path:
    listed = _git("ls-files", "--cached", "--others", "--exclude-standard", "-z")
    for name in filter(None, listed.split("\0")):
        source = ROOT / name
        if source.is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place / name)
    return place


def _keep(found: list[dict[str, object]]) -> None:
    kept = json.loads(OUTCOMES.read_text())["broken"] if OUTCOMES.exists() else []
    by_words = {one["says"]: one for one in [*kept, *found]}
    commit = _git("rev-parse", "--short", "HEAD").strip()
    listed = [by_words[one.says] for one in read_broken() if one.says in by_words]
    keep(
        "mutations",
        {"date": f"{datetime.now(UTC):%Y-%m-%d}", "commit": commit, "broken": listed},
    )


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
