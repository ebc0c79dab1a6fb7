"""Every call of a served process against the document that it answers itself.

`REID_TEST_EXAMPLES` is how many cases are made up for each call, and how many sequences of calls,
beside the cases that the document determines; `REID_TEST_SEED` chooses them, and 0 draws a seed.
Their number does not depend on the machine's speed, so a busy machine reaches the same ones.
"""

import hashlib
import json
import os
import re
import secrets
import sys
from pathlib import Path

import pytest

from tests.outside import chosen_seed, run_command, zip_of

pytestmark = pytest.mark.slow

HOOKS = Path(__file__).parent / "schemathesis_hooks.py"
EXAMPLES = int(os.environ.get("REID_TEST_EXAMPLES", "12"))
CONFIG = """
hooks = {hooks}
color = false
continue-on-failure = true
request-timeout = 60
headers = {{ Authorization = {key} }}

[generation]
max-examples = {examples}
# The key that is sent shall stand.
with-security-parameters = false
database = "none"

# Every example of the document is among what the other phases send.
[phases.examples]
enabled = false

[phases.stateful]
max-steps = 8
generation.mode = "positive"

[checks]
# Which 503 is one is a check of the hooks.
not_a_server_error.expected-statuses = ["2xx", "4xx", "503"]
# A form's fields are text, and what stands in them is more than a schema can say.
positive_data_acceptance.enabled = false

[dictionaries]
galleries.values = ["default"]
crops.values = {crops}
exports.values = {exports}
jobs.values = {jobs}
searches.values = {searches}
cases.values = {cases}
names.values = ["0000", "0001", "Ann", ""]
moments.values = ["2026-03-01T09:30:00Z", ""]
objects.values = ['{{"shift": "night"}}', "{{}}", ""]
versions.values = [0, 1, 2]

[parameters]
"path.gallery" = {{ dictionary = "galleries", probability = 0.7 }}
"path.crop_id" = {{ dictionary = "crops", probability = 0.5 }}
"path.export_id" = {{ dictionary = "exports", probability = 0.5 }}
"path.job_id" = {{ dictionary = "jobs", probability = 0.5 }}
"path.query_id" = {{ dictionary = "searches", probability = 0.5 }}
"path.case_id" = {{ dictionary = "cases", probability = 0.5 }}
"path.identity" = {{ dictionary = "names", probability = 0.5 }}
# More can be wrong with them than a schema says, and one wrong one is enough for a 422.
"body.identity[*]" = {{ dictionary = "names", probability = 0.9 }}
"body.camera[*]" = {{ dictionary = "names", probability = 0.9 }}
"body.external_id[*]" = {{ dictionary = "names", probability = 0.9 }}
"body.captured_at[*]" = {{ dictionary = "moments", probability = 0.9 }}
"body.metadata[*]" = {{ dictionary = "objects", probability = 0.9 }}
# The service waits two seconds for a version that does not come.
"query.min_version" = {{ dictionary = "versions" }}
"body.min_version" = {{ dictionary = "versions" }}

# It answers this machine without a key.
[[operations]]
include-path = "/metrics"
checks.ignored_auth.enabled = false

# The same image twice is one crop: deleted once, it is not there a second time.
[[operations]]
include-path-regex = "^/v1/galleries/{{gallery}}/crops/"
checks.ensure_resource_availability.enabled = false

# A gallery that was just created holds no crop that a search could be by.
[[operations]]
include-path-regex = "^/v1/galleries/{{gallery}}/queries$"
checks.ensure_resource_availability.enabled = false

# Other methods are those of /v1/webhooks/{{webhook_id}}, whose pattern it fits too.
[[operations]]
include-path = "/v1/webhooks/deliveries"
checks.allow_header_conformance.enabled = false

# Its answer does not end.
[[operations]]
include-path = "/v1/alerts/events"
enabled = false

# DELETE stops a job, which can still be read.
[[operations]]
include-path-regex = "^/v1/jobs/"
checks.use_after_free.enabled = false
"""

TIMEOUT = 300 + 30 * EXAMPLES
REACHED = (
    ("POST", "/v1/galleries/{gallery}/crops", "201"),
    ("POST", "/v1/galleries/{gallery}/queries", "200"),
    ("GET", "/v1/galleries/{gallery}/crops/{crop_id}", "200"),
    ("DELETE", "/v1/galleries/{gallery}/crops/{crop_id}", "200"),
    ("GET", "/v1/galleries/{gallery}/crops/{crop_id}", "404"),
)
"""Calls and statuses that have to be among the answers."""


@pytest.mark.promise("documented-calls")
@pytest.mark.timeout(TIMEOUT + 300)
def test_every_call_answers_as_its_document_says(start, tmp_path, drawn_crops):
    seed = chosen_seed()
    folder = _files(tmp_path, drawn_crops)
    secret = secrets.token_hex(32)
    kept = {"key_id": "test", "secret_sha256": hashlib.sha256(secret.encode()).hexdigest()}
    (tmp_path / "keys.jsonl").write_text(json.dumps(kept | {"scopes": ["admin"]}))
    served = start(api_keys_file=tmp_path / "keys.jsonl", max_images_per_request=8)
    key = f"Bearer gmn_test_{secret}"
    served.http.headers["Authorization"] = key
    images = [crop.png for crop in drawn_crops[:16]]
    crops = served.enrolled("default", *images[:8], identity="0000", camera="east")
    # No identity: forgetting one leaves these.
    crops += served.enrolled("default", *images[8:], camera="west")
    url = "/v1/galleries/default"
    archive = {"archive": (folder / "crops.zip").read_bytes()}
    job = served.http.post(f"{url}/imports", files=archive).json()
    kept = [served.query("default", images[8], keep=True, keep_picture=True) for _ in range(8)]
    cases = [served.http.post(f"{url}/cases", data={"name": "case"}) for _ in range(2)]
    export = served.http.post(f"{url}/exports").json()
    config = CONFIG.format(
        hooks=json.dumps(str(HOOKS)),
        key=json.dumps(key),
        examples=EXAMPLES,
        crops=json.dumps(crops),
        exports=json.dumps([export["export_id"]]),
        jobs=json.dumps([job["job_id"]]),
        searches=json.dumps([search.json()["query_id"] for search in kept]),
        cases=json.dumps([case.json()["case_id"] for case in cases]),
    )
    (tmp_path / "schemathesis.toml").write_text(config)
    ran = run_command(
        *(sys.executable, "-m", "schemathesis.cli"),
        *("--config-file", str(tmp_path / "schemathesis.toml")),
        *("run", f"{served.http.base_url}/openapi.json", "--seed", str(seed)),
        env={**os.environ, "REID_TEST_FILES": str(folder)},
        cwd=tmp_path,
        timeout=TIMEOUT,
    )
    # The sent requests are shown as well, with their images.
    said = "\n".join(line[:1000] for line in ran.stdout.splitlines())
    print(f"REID_TEST_SEED={seed}\n{said}\n{ran.stderr}")  # noqa: T201
    assert ran.returncode == 0
    assert "Traceback" not in served.log.read_text()
    answered = _answered(served)
    operations = _operations(served)
    said = {
        f"{method} {path}": sorted(status for *call, status in answered if call == [method, path])
        for method, path in operations
    }
    print(json.dumps(said, indent=1))  # noqa: T201
    # Its answer does not end, so that nothing asks it.
    silent = [call for call, statuses in said.items() if not statuses]
    assert silent == ["GET /v1/alerts/events"]
    assert {status for *_, status in answered if status >= "500"} <= {"503"}
    assert set(REACHED) <= answered


def _files(place, drawn_crops):
    folder = place / "files"
    folder.mkdir()
    entries = {f"{number}.png": crop.png for number, crop in enumerate(drawn_crops[::3])}
    for name, content in {**entries, "crops.zip": zip_of(entries)}.items():
        (folder / name).write_bytes(content)
    return folder


def _operations(served):
    """Return every call of the document that the service answers."""
    paths = served.read("/openapi.json")["paths"]
    return [(method.upper(), path) for path, calls in paths.items() for method in calls]


def _answered(served):
    """Return the statuses that each call was answered with, by the service's own count."""
    counted = served.http.get("/metrics").text.replace(":path}", "}")
    return set(
        re.findall(
            r'^gmn_http_requests_total{method="(\w+)",route="([^"]*)",status="(\d+)"}',
            counted,
            re.MULTILINE,
        )
    )
