"""The health of a service: after a load it has to be as it was before."""

import re
import time

from tests.conftest import draw_crop

SETTLES_WITHIN_S = 10.0
DRAINS_WITHIN_S = 30.0
WAITING = re.compile(
    r'^(gmn_cost_in_flight|gmn_stage_silent_seconds\{stage="[^"]+"\}) (\S+)$', re.M
)


def what_is_wrong(served):
    """Call every function of a service, and return a sentence for each that fails."""
    wrong = []
    for path in ("/livez", "/readyz"):
        answer = served.http.get(path)
        if answer.status_code != 200:
            wrong.append(f"{path}: {answer.status_code} {answer.text[:200]}")
    waiting = _still_waiting(served)
    if waiting:
        wrong.append(f"still waiting {SETTLES_WITHIN_S:.0f} s after the load: {waiting}")
    person = time.time_ns() % 10**9
    picture = draw_crop(person, 0, 0)
    enrolled = served.enroll("default", picture, identity="afterwards")
    if enrolled.status_code != 201:
        return [*wrong, f"an enrolment afterwards: {enrolled.status_code} {enrolled.text[:200]}"]
    crop_id = enrolled.json()["results"][0]["crop_id"]
    found = served.query("default", picture, top_k=1).json()["results"]
    if [crop["crop_id"] for crop in found] != [crop_id]:
        wrong.append(f"a query afterwards does not find what was enrolled: {found}")
    removed = served.http.delete(f"/v1/galleries/default/crops/{crop_id}")
    if removed.status_code != 200:
        wrong.append(f"a deletion afterwards: {removed.status_code} {removed.text[:200]}")
    left = served.query("default", picture, top_k=1000, scoring="cosine").json()["results"]
    if crop_id in [crop["crop_id"] for crop in left]:
        wrong.append("a query afterwards finds what was deleted")
    return wrong


def how_it_ends(served):
    """Stop a service, and return a sentence for each fault of its stop."""
    began = time.monotonic()
    status = served.stop()
    seconds = time.monotonic() - began
    if status != 0 or seconds > DRAINS_WITHIN_S:
        return [f"asked to stop it ended with {status} after {seconds:.1f} s"]
    return []


def _still_waiting(served):
    until = time.monotonic() + SETTLES_WITHIN_S
    while True:
        gauges = dict(WAITING.findall(served.http.get("/metrics").text))
        waiting = {name: value for name, value in gauges.items() if float(value) > 1.0}
        if "gmn_cost_in_flight" not in gauges:
            return {"gmn_cost_in_flight": "not shown"}
        if not waiting or time.monotonic() > until:
            return waiting
        time.sleep(0.2)
