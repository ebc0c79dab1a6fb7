"""A small load, as `make load` drives a large one."""

import pytest

from tests.load.clients import Account
from tests.load.http import Answer
from tests.load.run import measure
from tests.load.wellness import how_it_ends
from tests.service.conftest import start  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow

CLIENTS = 40
SECONDS = 5.0


@pytest.mark.promise("5")
def test_forty_clients_are_answered_or_told_when_to_return_and_the_service_is_well(start):  # noqa: F811
    served = start(max_cost=6, log_level="warning")
    measured = measure(served, CLIENTS, SECONDS)
    assert measured["wrong"] == []
    refused = [count for answer, count in measured["answers"].items() if answer.endswith(" 429")]
    assert refused, f"a budget of 6 refused none of 40: {measured}"
    assert measured["accepted, ms"]["p50"] > 0
    assert how_it_ends(served) == []


def test_an_answer_that_breaks_a_promise_is_told():
    account = Account()
    account.note("query", Answer(200, b"", None), 0.1)
    account.note("query", Answer(429, b"", 1), 0.1)
    assert account.wrong == []
    account.note("query", Answer(429, b"", None), 0.1)
    account.note("enrol", Answer(500, b"failed", None), 0.1)
    assert [line.split()[1] for line in account.wrong] == ["429", "500"]
