"""Cycles: traffic, a crash, a restart, and everything held against the ledger."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.torture.checks import check
from tests.torture.clients import GALLERIES, Client
from tests.torture.ledger import Violation, bearers
from tests.torture.operations import Gone
from tests.torture.scenarios import SCENARIOS
from tests.torture.world import World

CLIENTS = ("ann", "ben", "cem", "dua")
TRAFFIC_SECONDS = (0.2, 1.2)
DIES_WITHIN_SECONDS = 15.0
CLIENT_SECONDS = 60.0


@dataclass
class Driver:
    """Tortures one world."""

    world: World
    chance: random.Random
    killed: Counter[str] = field(default_factory=Counter)
    reached: set[str] = field(default_factory=set)

    def begin(self):
        self.world.start()
        self.world.begin_galleries()

    def at_random(self):
        """Run clients side by side, kill at a random moment, and return the killed processes.

        In half of the cycles a second process serves the same data directory.
        """
        world = self.world
        targets = {"service": world.running()}
        if self.chance.random() < 0.5:
            targets["beside"] = world.start_beside()
        clients = self._clients(list(targets.values()))
        target = self.chance.choice([*targets, "all"])
        for client in clients:
            client.start()
        time.sleep(self.chance.uniform(*TRAFFIC_SECONDS))
        if target == "all":
            world.kill()
        else:
            targets[target].kill()
        self._join(clients)
        if not world.go_on_with_survivor():
            self._come_back()
        self._check(clients)
        self.killed[f"{target} of {len(targets)}"] += 1
        return f"{target} of {len(targets)}"

    def at_failpoint(self, point):
        """Send one call that kills the service at its failpoint; return where that was."""
        world = self.world
        scenario = SCENARIOS[point]
        passage = self.chance.randint(1, scenario.passages)
        caller = world.caller("driver")
        if scenario.prepare is not None:
            scenario.prepare(caller)
        world.kill()
        if scenario.new_model:
            world.exchange_artefacts()
        named = f"{point}:{passage}"
        service = world.begin_start(named)
        try:
            if service.serving():
                caller.http = service.http
                scenario.act(caller)
        except Gone:
            pass
        if not service.died_within(DIES_WITHIN_SECONDS):
            raise Violation("failed", f"failpoint {named} was not reached: {service.said}")
        if f"failpoint {point}: passage {passage}" not in service.said:
            raise Violation("failed", f"the service died elsewhere: {service.said}")
        for doubt in world.ledger.doubts:
            doubt.expected = scenario.happened
        world.kill()
        world.lost += caller.lost
        world.start()
        self._check([])
        self.reached.add(point)
        self.killed["failpoint"] += 1
        return named

    def _clients(self, processes):
        places = zip(CLIENTS, itertools.cycle(processes), strict=False)
        return [
            Client(name, self.world.ledger, process.http, random.Random(self.chance.random()))
            for name, process in places
        ]

    def _join(self, clients):
        for client in clients:
            client.stop.set()
        for client in clients:
            client.join(CLIENT_SECONDS)
            if client.is_alive():
                raise Violation("failed", f"client {client.name} still waits for an answer")
            if client.violation is not None:
                raise client.violation

    def _come_back(self):
        world = self.world
        if self.chance.random() < 0.2:
            world.exchange_artefacts()
        if self.chance.random() < 0.25:
            service = world.begin_start()
            service.died_within(self.chance.uniform(0.05, max(world.starts, default=1.0)))
            world.kill()
            self.killed["start"] += 1
        world.start()

    def _check(self, clients):
        world = self.world
        check(world)
        world.lost += [lost for client in clients for lost in client.caller.lost]
        caller = world.caller("driver")
        for lost in world.lost:
            if self.chance.random() < 0.7:
                caller.enroll_again(lost)
        world.lost.clear()
        # Settings of one cycle do not stay for all of them.
        shared = {*GALLERIES, *self.chance.sample(sorted(world.ledger.galleries), 1)}
        for gallery in [name for name, there in world.ledger.galleries.items() if there]:
            if gallery not in shared:
                caller.delete_gallery(gallery)
        for gallery in GALLERIES:
            self._thin_out(gallery)

    def _thin_out(self, gallery):
        ledger = self.world.ledger
        caller = self.world.caller("driver")
        there = {
            n: state
            for n, state in ledger.now.items()
            if state is not None and ledger.crops[n].gallery == gallery
        }
        while len(there) > 40:
            identity = self.chance.choice(sorted(there.values()))
            caller.forget(gallery, identity, bearers(there, identity))
            there = {n: name for n, name in there.items() if name != identity}
        del ledger.exports.get(gallery, [])[:-3]

    def figures(self):
        ledger = self.world.ledger
        starts = sorted(self.world.starts)
        return {
            "kills": dict(self.killed),
            "writes": dict(ledger.outcomes),
            "doubts": dict(ledger.settled),
            "crops": len(ledger.crops),
            "deleted": len(ledger.dead),
            "failpoints": sorted(self.reached),
            "start_seconds": round(starts[len(starts) // 2], 2) if starts else None,
        }
