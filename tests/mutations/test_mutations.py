"""The list of what is broken on purpose fits the code as it is, and every entry was found."""

from __future__ import annotations

import json
import re

import pytest

from tests.mutations.broken import OUTCOMES, ROOT, read_broken

LISTED = read_broken()


@pytest.mark.parametrize("one", LISTED, ids=lambda one: one.says)
def test_what_is_replaced_stands_once_in_its_file_and_the_test_is_there(one):
    text = (ROOT / one.file).read_text()
    assert text.count(one.old) == 1
    assert one.text(ROOT) != text
    path, _, name = one.test.partition("::")
    assert (ROOT / path).exists()
    if name:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE)


def test_every_one_was_seen_to_be_found():
    kept = json.loads(OUTCOMES.read_text())["broken"]
    assert [(one["promise"], one["says"]) for one in kept] == [
        (one.promise, one.says) for one in LISTED
    ]
    assert all(one["failed"] and one["tests"] for one in kept)


def test_every_promise_is_among_them():
    assert {one.promise for one in LISTED} >= set(range(1, 8))
