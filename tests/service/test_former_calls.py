"""What programs of the version before call is there, or answers how to do without it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORMER = (Path(__file__).parent / "v050" / "api.txt").read_text()
NEW = (ROOT / "docs" / "api.txt").read_text()
CALL = re.compile(r"(GET|POST|PUT|PATCH|DELETE) (\S+):")
# What has left the answers and forms, which the change log has to say.
LEFT = {("ForgottenIdentity", "snapshots")}


def parts_of(page):
    """Return the parameters of each call, and the fields of each object, by name."""
    parts = {}
    fields = None
    for line in page.splitlines()[1:]:
        call = CALL.match(line)
        if call:
            fields = parts.setdefault(f"{call[1]} {call[2]}", set())
        elif line and not line.startswith(" "):
            fields = parts.setdefault(line.partition(":")[0], set())
        elif line.startswith(("  query ", "  header ")):
            fields.add(line.split()[1].rstrip(":"))
        elif line and not line.startswith(("  path ", "  body ", "  answer ")):
            fields.add(line.split()[0].rstrip(":"))
    return parts


def withdrawn_calls():
    return [
        call for call in parts_of(FORMER) if CALL.match(f"{call}:") and call not in parts_of(NEW)
    ]


@pytest.mark.parametrize("call", withdrawn_calls())
def test_a_call_that_has_left_answers_with_its_remedy(served, gallery, call):
    method, _, path = call.partition(" ")
    url = re.sub(r"\{\w+\}", "any", path.replace("{gallery}", gallery))
    answer = served.http.request(method, url)
    assert answer.status_code == 410
    assert answer.json()["type"] == "urn:gmn:problem:gone"
    assert re.search("/v1/galleries/.+/(exports|imports)", answer.json()["detail"])


def test_every_other_call_takes_and_answers_what_it_did():
    new = parts_of(NEW)
    withdrawn = set(withdrawn_calls())
    # Objects of withdrawn calls alone.
    objects = {"RestoredSnapshot", "Snapshot", "Snapshots"}
    for name, fields in parts_of(FORMER).items():
        if name in withdrawn or name in objects:
            continue
        left = {(name, field) for field in fields - new[name]}
        assert left <= LEFT, left


def test_the_change_log_says_what_has_left():
    changes = (ROOT / "CHANGELOG.md").read_text()
    for _, field in LEFT:
        assert f"`{field}` is gone from the answer" in " ".join(changes.split())
