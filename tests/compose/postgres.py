"""The guide's two machines: one is killed under load, and then the primary of their record."""

import time

from tests.compose.checks import LOAD_SECONDS, compare, enroll, find
from tests.compose.deployment import Death, Failed, read_json
from tests.compose.load import GALLERY, Load
from tests.conftest import draw_crop

MACHINES = ("service", "service-b")
# From the death of a machine to the next success through the proxy.
MACHINE_SECONDS = 5.0
# From the end of the commands that promote the standby to the next success.
PROMOTION_SECONDS = 10.0
SUCCESS_SECONDS = 60.0
REFUSAL_SECONDS = 30.0


def serve_from_two_machines(it, kept):
    """Start two machines, kill one, and then the primary, whose standby is promoted."""
    _enroll_into_sqlite(it, kept)
    it.do("settings of two machines")
    it.do("copy the record")
    it.until_ready(containers=0, others=MACHINES[1:])
    _compare(it, kept, "after the record was copied into PostgreSQL", MACHINES[1:])
    it.do("remove the former record")
    it.do("start two machines")
    _until_ready(it)
    it.say("two machines with one record in PostgreSQL are ready")
    _enroll_through_the_proxy(it, kept)
    _list_exports(it)
    _kill_a_machine(it, kept)
    it.do("dump")
    _kill_the_primary(it, kept)
    _start_the_former_primary(it)
    it.do("add the standby again")
    _enroll_through_the_proxy(it, kept)
    _compare(it, kept, "with a standby again")


def _enroll_into_sqlite(it, kept):
    it.do("up")
    it.until_ready()
    with it.through_the_proxy() as http:
        for person in range(5):
            image = draw_crop(person, 0, 0)
            version, crop_id = enroll(http, image, f"person {person}")
            kept.note(version, crop_id, image)


def _until_ready(it):
    it.until_ready(others=MACHINES[1:])


def _enroll_through_the_proxy(it, kept):
    """Check that both machines find what one of them, whichever, has acknowledged."""
    image = draw_crop(8_000_000 + len(kept.images), 0, 0)
    with it.through_the_proxy() as http:
        version, crop_id = enroll(http, image, "somebody")
    kept.note(version, crop_id, image)
    for machine in MACHINES:
        with it.container(1, machine) as http:
            found = find(http, image, version)["results"]
        if crop_id not in [result["crop_id"] for result in found]:
            raise Failed(f"{machine} does not find {crop_id}, which the proxy enrolled")
    it.say("a crop was enrolled through the proxy, and both machines find it")


def _list_exports(it):
    """Check that requests about exports go to the machine that has them."""
    path = f"{GALLERY}/exports"
    with it.through_the_proxy() as http:
        export_id = read_json(http.post(path), 201)["export_id"]
        for _ in range(8):
            listed = read_json(http.get(path))["results"]
            if export_id not in [export["export_id"] for export in listed]:
                raise Failed(f"the proxy asked a machine that has not made {export_id}")
        read_json(http.delete(f"{path}/{export_id}"), 204)
    it.say("an export is listed by each of 8 requests through the proxy")


def _kill_a_machine(it, kept):
    killed = MACHINES[0]
    with Load(it, kept, first_person=60_000_000) as load:
        time.sleep(LOAD_SECONDS)
        death = it.kill(killed)
        seconds = _until_success(load, death.ended) - death.ended
        time.sleep(LOAD_SECONDS)
    account = load.account(death)
    it.say(f"kill -9 of {killed} under load: next success {seconds:.2f} s after it; {account}")
    if seconds > MACHINE_SECONDS:
        raise Failed(f"the proxy succeeded only {seconds:.1f} s after {killed} was killed")
    it.compose("up", "-d", killed)
    _until_ready(it)
    _compare(it, kept, f"after kill -9 of {killed}")


def _kill_the_primary(it, kept):
    with Load(it, kept, first_person=70_000_000) as load:
        time.sleep(LOAD_SECONDS)
        death = it.kill("postgres")
        time.sleep(LOAD_SECONDS)
        asked = time.time()
        it.do("promote the standby")
        promoted = time.time()
        success = _until_success(load, asked)
        time.sleep(LOAD_SECONDS)
    # Meanwhile everything that needs the record is refused.
    outage = Death(death.began, success + 5.0)
    account = load.account(outage)
    it.say(
        f"kill -9 of the primary under load: next success {success - asked:.2f} s after the "
        f"promotion was begun, {success - promoted:.2f} s after it was done; {account}"
    )
    if success - promoted > PROMOTION_SECONDS:
        raise Failed(f"the proxy succeeded only {success - promoted:.1f} s after the promotion")
    _until_ready(it)
    _compare(it, kept, "after the standby was promoted")


def _start_the_former_primary(it):
    """Check that a former primary that is started by mistake takes no writes."""
    it.compose("start", "postgres")
    until = time.monotonic() + REFUSAL_SECONDS
    while "out of date" not in it.compose("logs", "--tail", "20", "postgres"):
        if time.monotonic() > until:
            raise Failed("the former primary does not say that it is out of date")
        time.sleep(0.5)
    it.compose("stop", "postgres")
    it.say("the former primary was started by mistake, and ended by itself")


def _until_success(load, moment):
    until = time.monotonic() + SUCCESS_SECONDS
    while (success := load.first_enrollment_after(moment)) is None:
        if time.monotonic() > until:
            raise Failed(f"nothing succeeded within {SUCCESS_SECONDS:.0f} s")
        time.sleep(0.05)
    return success


def _compare(it, kept, when, machines=MACHINES):
    for machine in machines:
        with it.container(1, machine) as http:
            compare(http, kept, when)
    it.say(f"{when}: {len(kept.images)} crops at each machine, none lost, no deleted one there")
