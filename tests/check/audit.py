"""Asks the registry's advisories about every pinned package: `python -m tests.check.audit`.

`pip-audit` by itself reports that it knows of no vulnerability where nobody could be asked, as
behind a mirror that serves packages alone; this ends with status 1 then, and says so.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
REQUIREMENTS = [ROOT / "requirements.txt", ROOT / "requirements-serve.txt"]
SECONDS = 300


def ask(requirements):
    """Return the JSON of `pip-audit` about pinned packages; empty where it could not ask."""
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "-f", "json"]
    for file in requirements:
        options += ["-r", str(file)]
    ran = subprocess.run(
        [sys.executable, "-m", "pip_audit", *options],
        # pip-audit also reports "nothing known" for a package that it did not look up.
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return ran.stdout


def judge(answer):
    """Return whether all is well by such an answer, and what to say of it."""
    try:
        packages = json.loads(answer)["dependencies"]
    except (ValueError, KeyError):
        return (
            False,
            "NOT AUDITED: pip-audit could not ask; run it where it can reach its advisories",
        )
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    known = [
        f"{package['name']} {package['version']}: {flaw['id']}, mended in "
        f"{', '.join(flaw['fix_versions']) or 'no version yet'}"
        for package in packages
        for flaw in package.get("vulns", ())
    ]
    if known:
        return False, "VULNERABLE:\n" + "\n".join(known)
    if unknown:
        return False, (
            f"NOT AUDITED: of {len(packages)} packages {len(unknown)} could not be asked about "
            f"({', '.join(unknown[:3])} …); run it where its advisories can be reached"
        )
    return True, f"{len(packages)} packages, no known vulnerability"


def main():
    """Audit the packages, print the findings, and return the exit status."""
    well, said = judge(ask(REQUIREMENTS))
    print(said, file=sys.stdout if well else sys.stderr)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
