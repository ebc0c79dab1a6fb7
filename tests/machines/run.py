"""`make machines`: two machines on one record in PostgreSQL, whose parts are killed under load.

Usage: python -m tests.machines.run [--processes 100] [--servers 30] [--pauses 10]
    [--promotions 5] [--proxied 20] [--cuts 8] [--stops 5] [--copies 3] [--seed 1]

Each machine is a service with a data directory of its own. Clients enroll and delete at either of
them. A service is killed and started again; the server is killed and started again, or stands
still for a while, or an earlier copy is put in its place; a service stands still; or the server is
killed for good, its synchronous standby is promoted, and a new standby follows that, at times after
a COMMIT was cut off that waited for the standby. At last clients write through the proxy of the
deployment, if HAProxy is installed, while a service behind it is killed. After each of these the
machines have to agree on all that was acknowledged. The figures go to `runs/machines.json`.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from tests.conftest import draw_crops, save_tiny_artefact
from tests.load.run import report
from tests.machines.ledger import GALLERY, Client, Ledger, compare
from tests.machines.proxy import PROGRAM, Proxy
from tests.memory_folder import memory_folder
from tests.outside import free_port
from tests.postgres import PostgresServer
from tests.service.conftest import Served
from tests.torture.images import draw
from tests.waiting import eventually

SCHEMA = "record"
CLIENTS = 4
MACHINES = 2
# Clients write for a while before each kill, and after it.
TRAFFIC_SECONDS = (0.3, 1.2)
SUCCESS_SECONDS = 60.0
# After this time the death of a server is noticed, and its standby promoted.
DETECTION_SECONDS = 1.0
# The server stands still for so long.
PAUSE_SECONDS = (5.0, 20.0)
LOOK_SECONDS = 0.1
# How COMMITs end that wait for a standby, and how long nothing may be acknowledged then.
ENDS_OF_WAITS = ("restart", "kill", "terminate", "cancel")
WITHOUT_STANDBY_SECONDS = (2.0, 6.0)
# Clients try for so long to write to an earlier copy.
EARLIER_SECONDS = 3.0
FOUND = ("lost", "back", "unseen", "differing", "unkept", "accepted")
# What happens to machines and servers of one kind.
WORLDS = (
    ({}, ("kill_service", "kill_server", "pause_server", "stop_service", "put_back")),
    ({"has_standby": True}, ("promote", "cut_off")),
    ({"has_proxy": True}, ("kill_behind_proxy",)),
)


class World:
    """Two machines, a server with its standby if there is one, and clients.

    Args:
        folder: for everything.
        has_standby: a synchronous standby follows the server.
        has_proxy: the clients write through a proxy.
    """

    def __init__(self, folder, artefact, chance, has_standby=False, has_proxy=False):
        self.ledger = Ledger()
        self._folder = folder
        self._artefact = artefact
        self._chance = chance
        self._primary = self._make_server("a", None)
        self._standby = self._make_standby("b") if has_standby else None
        self._starts = 0
        self._ports = [free_port() for _ in range(MACHINES)]
        # Seconds until each machine told that the server stood still.
        self.noticed = []
        # Seconds until a write was refused meanwhile.
        self.refused = []
        # Writes that were acknowledged although they may be lost.
        self.violations = Counter()
        self.services = [self._serve(number) for number in range(MACHINES)]
        self.services[0].create(GALLERY)
        eventually(lambda: self.services[1].http.get(f"/v1/galleries/{GALLERY}").is_success)
        self._proxy = Proxy(folder, self._ports) if has_proxy else None
        self._stop = threading.Event()
        self._clients = []

    def kill_service(self):
        """Kill a service and start it again; return when it was killed."""
        number = self._chance.randrange(MACHINES)
        self.services[number].process.kill()
        killed = time.monotonic()
        self.services[number].ended_with()
        self._wait_for_success(killed)
        self.services[number] = self._serve(number)
        return killed

    def kill_server(self):
        """Kill the server and start it again; return when it answered again."""
        self._primary.kill()
        time.sleep(self._chance.uniform(0.0, 2.0))
        self._primary.start()
        return time.monotonic()

    def kill_behind_proxy(self):
        return self.kill_service()

    def pause_server(self):
        """Keep the server from running for a while; return when it went on."""
        seconds = self._chance.uniform(*PAUSE_SECONDS)
        refused = len(self.ledger.refusals)
        unaware = list(self.services)
        with self._primary.standing_still():
            stopped = time.monotonic()
            while time.monotonic() < stopped + seconds:
                for served in list(unaware):
                    if served.http.get("/readyz").status_code == 503:
                        self.noticed.append(time.monotonic() - stopped)
                        unaware.remove(served)
                time.sleep(LOOK_SECONDS)
        went_on = time.monotonic()
        self._wait_for_success(went_on)
        self.refused += self.ledger.refusals[refused:]
        return went_on

    def stop_service(self):
        """Keep a service from running until another one has written; return when it was stopped."""
        number = self._chance.randrange(MACHINES)
        process = self.services[number].process
        process.send_signal(signal.SIGSTOP)
        try:
            stopped = time.monotonic()
            self._wait_for_success(stopped + TRAFFIC_SECONDS[0])
        finally:
            process.send_signal(signal.SIGCONT)
        return stopped

    def put_back(self):
        """Put an earlier copy in the place of the server for a while; return when it was away.

        A new machine writes to it meanwhile, and the others may not.
        """
        earlier = self._primary.copy_data()
        self._wait_for_success(time.monotonic())
        # Only a machine that has shown a later commit can tell that the copy lacks it.
        version = self._version_of(self.services[0])
        for served in self.services:
            eventually(lambda served=served: self._version_of(served) >= version)
        newest = self._primary.put_back(earlier)
        since = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            new = self._serve_in(Path(folder) / "data")
            for picture in range(2 * CLIENTS):
                new.enrolled(GALLERY, draw(picture, 8))
            time.sleep(EARLIER_SECONDS)
            self.violations["accepted"] += self._count_successes(since)
            new.kill()
        self._primary.put_back(newest)
        return time.monotonic()

    def cut_off(self):
        """End COMMITs that wait for the standby, which is away, and promote it.

        Returns:
            When the promotion was asked for.
        """
        self._standby.stop()
        eventually(self._primary.waiting_for_standby)
        # Answers that were under way have arrived by then.
        time.sleep(DETECTION_SECONDS)
        since = time.monotonic()
        self._primary.end_waits_for_standby(self._chance.choice(ENDS_OF_WAITS))
        time.sleep(self._chance.uniform(*WITHOUT_STANDBY_SECONDS))
        self.violations["unkept"] += self._count_successes(since)
        self._primary.kill()
        self._standby.start()
        return self._promote()

    def promote(self):
        """Kill the server for good and promote its standby; return when that was asked for."""
        self._primary.kill()
        return self._promote()

    def _promote(self):
        former = self._primary
        # Answers that were under way have arrived by then.
        time.sleep(DETECTION_SECONDS)
        promoted = time.monotonic()
        self._standby.promote()
        self._primary = self._standby
        self._wait_for_success(promoted)
        # The new standby has the address of the killed server, which the services know.
        shutil.rmtree(former.folder)
        self._standby = self._make_standby(former.folder.name)
        return promoted

    def run(self, act):
        """Act under load; return the seconds until a write succeeds, and what is wrong then."""
        self._begin_load()
        time.sleep(self._chance.uniform(*TRAFFIC_SECONDS))
        began = act()
        seconds = self._wait_for_success(began)
        time.sleep(self._chance.uniform(*TRAFFIC_SECONDS))
        surprises = self._end_load()
        self._wait_until_ready()
        wrong = Counter(compare(self.ledger, self.services, self._chance)) + self.violations
        self.violations.clear()
        return seconds, wrong, surprises

    def close(self):
        self._stop.set()
        if self._proxy is not None:
            self._proxy.close()
        for served in self.services:
            if served.process.poll() is None:
                served.kill()
        for server in (self._standby, self._primary):
            if server is not None and server.process.poll() is None:
                server.stop()

    def _make_server(self, name, primary):
        place = self._folder / name
        place.mkdir()
        return PostgresServer(place, primary)

    def _make_standby(self, name):
        standby = self._make_server(name, self._primary)
        self._primary.require_standby()
        return standby

    def _serve(self, number):
        return self._serve_in(self._folder / f"machine-{number}", port=self._ports[number])

    def _serve_in(self, data_dir, **settings):
        self._starts += 1
        return Served(
            self._folder / f"log-{self._starts}",
            artefact=self._artefact,
            data_dir=data_dir,
            database_url=self._url(),
            **settings,
        )

    def _url(self):
        if self._standby is None:
            return self._primary.url(SCHEMA)
        return self._primary.url_of_both(self._standby, SCHEMA)

    def _begin_load(self):
        self._stop = threading.Event()
        targets = self.services if self._proxy is None else [self._proxy]
        self._clients = [
            Client(self.ledger, targets, number, self._stop) for number in range(CLIENTS)
        ]
        for client in self._clients:
            client.start()

    def _end_load(self):
        self._stop.set()
        for client in self._clients:
            client.join()
        return [surprise for client in self._clients for surprise in client.surprises]

    def _wait_until_ready(self):
        for number, served in enumerate(self.services):
            try:
                eventually(lambda served=served: served.http.get("/readyz").is_success)
            except AssertionError as failure:
                failure.add_note(f"machine {number}: {served.http.get('/readyz').text}")
                raise

    def _version_of(self, served):
        return served.read(f"/v1/galleries/{GALLERY}")["version"]

    def _count_successes(self, since):
        return sum(moment > since for moment in list(self.ledger.successes))

    def _wait_for_success(self, moment):
        eventually(lambda: self.ledger.first_success_after(moment) is not None, SUCCESS_SECONDS)
        return self.ledger.first_success_after(moment) - moment


def _measure(world, acts, say):
    """Run acts one after another; return the seconds until each was over, and what was wrong."""
    seconds = []
    wrong = Counter()
    surprises = []
    for number, act in enumerate(acts, 1):
        took, found, unexpected = world.run(act)
        seconds.append(took)
        wrong += found
        surprises += unexpected
        say(f"{number}/{len(acts)}: {act.__name__}, {took:.2f} s, {dict(found)} {unexpected}")
    return seconds, wrong, surprises


def kill_all(artefact, times, seed, say=lambda _: None):
    """Return what was measured, with violations under `wrong`.

    Args:
        times: how often each act happens, by its name in `WORLDS`.
    """
    chance = random.Random(seed)
    measured = {"seed": seed, "load_average_before": round(os.getloadavg()[0], 1)}
    wrong = Counter()
    surprises = []
    acknowledged = Counter()
    for parts, names in WORLDS:
        plan = [name for name in names for _ in range(times.get(name, 0))]
        if not plan:
            continue
        chance.shuffle(plan)
        with (
            tempfile.TemporaryDirectory(prefix="gmn-machines-", dir=memory_folder()) as folder,
            contextlib.ExitStack() as held,
        ):
            # The server runs as another user.
            Path(folder).chmod(0o755)
            world = World(Path(folder), artefact, chance, **parts)
            held.callback(world.close)
            acts = [getattr(world, name) for name in plan]
            seconds, found, unexpected = _measure(world, acts, say)
        wrong += found
        surprises += unexpected
        acknowledged["enrolled"] += len(world.ledger.enrolled)
        acknowledged["deleted"] += len(world.ledger.deleted)
        for name in sorted(set(plan)):
            of_name = [took for act, took in zip(plan, seconds, strict=True) if act == name]
            measured[name] = _summarize(of_name)
        if world.noticed:
            measured["pause_server"]["noticed"] = _summarize(world.noticed)
        if "kill_behind_proxy" in plan:
            measured["kill_behind_proxy"]["writes"] = _summarize(world.ledger.waits)
        if world.refused:
            measured["pause_server"]["refused"] = _summarize(world.refused)
    measured |= acknowledged
    measured["found"] = {name: wrong[name] for name in FOUND}
    measured["wrong"] = [f"{count} {name}" for name, count in wrong.items() if count] + surprises
    return measured


def _summarize(seconds):
    return {
        "times": len(seconds),
        "median_s": round(statistics.median(seconds), 2),
        "slowest_s": round(max(seconds), 2),
    }


def main():
    """Kill, compare and report; return the exit status."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--processes", type=int, default=100)
    options.add_argument("--servers", type=int, default=30)
    options.add_argument("--pauses", type=int, default=10)
    options.add_argument("--promotions", type=int, default=5)
    options.add_argument("--proxied", type=int, default=20)
    options.add_argument("--cuts", type=int, default=8)
    options.add_argument("--stops", type=int, default=5)
    options.add_argument("--copies", type=int, default=3)
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()

    def say(line):
        print(line, file=sys.stderr, flush=True)  # noqa: T201

    with tempfile.TemporaryDirectory(prefix="gmn-artefact-") as name:
        artefact = Path(name) / "tiny.safetensors"
        save_tiny_artefact(artefact, draw_crops())
        times = {
            "kill_service": asked.processes,
            "kill_server": asked.servers,
            "pause_server": asked.pauses,
            "promote": asked.promotions,
            "cut_off": asked.cuts,
            "stop_service": asked.stops,
            "put_back": asked.copies,
            "kill_behind_proxy": asked.proxied if PROGRAM else 0,
        }
        if PROGRAM is None:
            say("haproxy is not installed: nothing is killed behind a proxy")
        measured = kill_all(artefact, times, asked.seed, say)
    return report(measured, "machines.json")


if __name__ == "__main__":
    sys.exit(main())
