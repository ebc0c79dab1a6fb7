"""Names direct dependencies without a release for long: `python -m tests.check.ages`.

It asks the index that pip uses by default. A dependency may be old for a reason, which
`old_dependencies.toml` gives; a reason for one that is not old any more is out of date itself.
"""

import json
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.request import Request, urlopen

from pip._internal.models.index import PyPI

from bench.packages import EXTRAS, PROJECT, requirements_of

REASONS = Path(__file__).with_name("old_dependencies.toml")
OLD_AFTER = timedelta(days=548)
JSON = "application/vnd.pypi.simple.v1+json"
SECONDS = 30


def direct_dependencies():
    """Return the names of what the project and its extras require."""
    names = {requirement.name for extra in EXTRAS for requirement in requirements_of(extra)}
    return sorted(names - {PROJECT["name"]})


def newest_upload(name):
    """Return when a file of a package was uploaded last; raises `OSError`."""
    request = Request(f"{PyPI.simple_url}/{name}/", headers={"Accept": JSON})
    with urlopen(request, timeout=SECONDS) as answer:
        files = json.load(answer)["files"]
    return max(datetime.fromisoformat(file["upload-time"]) for file in files)


def judge(uploads, reasons, now):
    """Return what is wrong, by the time of the newest upload of each dependency and by reasons."""
    old = {name for name, uploaded in uploads.items() if now - uploaded > OLD_AFTER}
    wrong = [
        f"{name}: its last release is of {uploads[name]:%Y-%m-%d}; replace it, or give the reason"
        for name in sorted(old - reasons.keys())
    ]
    wrong += [
        f"{name}: is not old any more, or no dependency; remove its reason"
        for name in sorted(reasons.keys() - old)
    ]
    return wrong


def main():
    """Ask about all direct dependencies, print what is wrong, and return the exit status."""
    try:
        uploads = {name: newest_upload(name) for name in direct_dependencies()}
    except (OSError, KeyError) as error:
        sys.stderr.write(f"NOT ASKED: the index does not answer with times ({error})\n")
        return 1
    wrong = judge(uploads, tomllib.loads(REASONS.read_text()), datetime.now(UTC))
    said = "\n".join(wrong) or f"{len(uploads)} dependencies, each with a release or a reason"
    sys.stdout.write(f"{said}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
