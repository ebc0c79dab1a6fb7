"""Clients that query, enrol and delete without pause, or at a pace, and what each was answered."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.conftest import draw_crop
from tests.load.http import Connection, image_form, request

GALLERY = "/v1/galleries/default"
QUERIES = 0.7
# The other requests delete enrolled crops.
ENROLMENTS = 0.15
ACCEPTED = (200, 201)
REFUSED = (429, 503)
PICTURES = 200
LONGEST_ANSWER_S = 60.0
# An image that cannot be told from another would be its duplicate, and no enrolment.
TRAILER = b"load"


@dataclass
class Account:
    """The outcomes of all requests.

    Attributes:
        statuses: counts of answers by call and status; 0 stands for no answer.
        accepted_s: seconds until each 2xx.
        refused_s: seconds until each 429 or 503.
        wrong: the first few answers that break a promise.
        driver_late_s: the latest that the driver's own clock was, which answers look late by.
        living: crops that were enrolled and not deleted.
    """

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    accepted_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    driver_late_s: float = 0.0
    living: list[str] = field(default_factory=list)

    def note(self, what, answer, seconds):
        self.statuses[what, answer.status] += 1
        if answer.status in ACCEPTED:
            self.accepted_s.append(seconds)
        elif answer.status in REFUSED and answer.retry_after is not None:
            self.refused_s.append(seconds)
        else:
            self.complain(f"{what}: {answer.status} {answer.body[:200]!r}")

    def complain(self, wrong):
        if len(self.wrong) < 20:
            self.wrong.append(wrong)


class Pictures:
    """Files of drawn people, each given out once."""

    def __init__(self, seed):
        self._drawn = [draw_crop(seed + number % 50, 0, number) for number in range(PICTURES)]
        self._given = 0

    def next(self):
        """Return a file that was never sent, by another number behind the PNG's end."""
        self._given += 1
        picture = self._drawn[self._given % PICTURES]
        return picture + TRAILER + self._given.to_bytes(8, "big")


async def drive(port, clients, seconds, pictures, pace=None):
    """Let clients send requests for some seconds; refused ones wait as they are told.

    Args:
        port: of the service on this machine.
        clients: how many ask at once, over a connection each.
        seconds: until the last request begins.
        pictures: to send.
        pace: requests a second of all clients together; None for as many as are answered.
    """
    account = Account()
    until = time.monotonic() + seconds
    turns = _Turns(pace, until)
    late = asyncio.create_task(_watch_own_clock(account))
    try:
        await asyncio.gather(
            *(_client(port, number, account, until, pictures, turns) for number in range(clients))
        )
        await _delete_all(port, account)
    finally:
        late.cancel()
    return account


class _Turns:
    """Hands out the moments at which requests begin."""

    def __init__(self, pace, until):
        self._between = 1.0 / pace if pace else 0.0
        self._next = time.monotonic()
        self._until = until

    async def wait(self):
        """Wait for the next request; return False once the time is over."""
        moment = self._next = max(self._next + self._between, 0.0)
        if self._between and moment < self._until:
            await asyncio.sleep(max(0.0, moment - time.monotonic()))
        return max(moment if self._between else 0.0, time.monotonic()) < self._until


async def _client(port, number, account, until, pictures, turns):
    chance = random.Random(number)
    connection = Connection(port)
    # Not all at the same moment, as no clients do.
    await asyncio.sleep(chance.random() * min(1.0, (until - time.monotonic()) / 4))
    while await turns.wait():
        wait = await _ask_one(connection, chance, account, pictures)
        await asyncio.sleep(min(wait, max(0.0, until - time.monotonic())))
    connection.close()


async def _ask_one(connection, chance, account, pictures):
    """Send a request, and return the seconds to wait before the next one."""
    dice = chance.random()
    crop_id = None
    if dice < QUERIES:
        what = "query"
        form = image_form(pictures.next(), top_k="5")
        sent = request("POST", f"{GALLERY}/queries", form)
    elif dice < QUERIES + ENROLMENTS or not account.living:
        what = "enrol"
        form = image_form(pictures.next(), identity=f"{chance.randrange(50)}", camera="load")
        sent = request("POST", f"{GALLERY}/crops", form)
    else:
        what = "delete"
        crop_id = account.living.pop(chance.randrange(len(account.living)))
        sent = request("DELETE", f"{GALLERY}/crops/{crop_id}")
    began = time.monotonic()
    try:
        answer = await asyncio.wait_for(connection.ask(sent), LONGEST_ANSWER_S)
    except (OSError, EOFError, TimeoutError) as error:
        account.statuses[what, 0] += 1
        account.complain(f"{what}: no answer, {error!r}")
        return 0.1
    account.note(what, answer, time.monotonic() - began)
    if what == "enrol" and answer.status == 201:
        account.living.append(answer.json()["results"][0]["crop_id"])
    elif crop_id is not None and answer.status in REFUSED:
        account.living.append(crop_id)
    return float(answer.retry_after or 0) if answer.status in REFUSED else 0.0


async def _delete_all(port, account):
    connection = Connection(port)
    for crop_id in account.living:
        answer = await asyncio.wait_for(
            connection.ask(request("DELETE", f"{GALLERY}/crops/{crop_id}")), LONGEST_ANSWER_S
        )
        if answer.status != 200:
            account.complain(f"after the load, delete: {answer.status} {answer.body[:200]!r}")
    connection.close()


async def _watch_own_clock(account):
    while True:
        asked = time.monotonic()
        await asyncio.sleep(0.05)
        account.driver_late_s = max(account.driver_late_s, time.monotonic() - asked - 0.05)
