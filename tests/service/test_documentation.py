"""docs/service.md and docs/reference.md agree with the service."""

import functools
import json
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from bench import reference
from bench.tables import page_of, replace_table
from gmn_client.models import PROBLEM_CODES
from service.app import VERSION, create_app
from service.errors import RecordWaits, ServiceError
from service.http.guard import needs_of
from service.http.problems import CODE_OF_STATUS, EXAMPLES
from service.settings import Settings
from tests.outside import run_command

ROOT = Path(__file__).parents[2]
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")}
REFERENCE = PAGES["reference"]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
ADDRESS = "http://127.0.0.1:8000"


@functools.cache
def application():
    return create_app(Settings())


@pytest.mark.parametrize("name", reference.TABLES)
def test_the_tables_of_settings_and_of_what_remains_are_those_of_the_service(name):
    page = page_of(name).read_text(encoding="utf-8")
    written = replace_table(page, name, reference.TABLES[name]())
    assert written == page, "run python -m bench.reference"


def test_the_version_is_the_same_everywhere_and_has_its_changes():
    versions = {VERSION} | {
        tomllib.loads((ROOT / name).read_text(encoding="utf-8"))["project"]["version"]
        for name in ("pyproject.toml", "gmn_client/pyproject.toml")
    }
    package = json.loads((ROOT / "clients/typescript/package.json").read_text(encoding="utf-8"))
    # npm takes versions of another form than Python.
    versions.add(package["version"].replace("-dev.", ".dev"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert versions == {re.findall(r"^## (\S+)$", changes, re.MULTILINE)[0]}


def test_every_setting_is_described():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_every_kind_of_problem_has_its_remedy():
    errors = REFERENCE.split("## Errors")[1].split("\n## ")[0]
    rows = re.findall(r"^\| \d[^|]*\| ([^|]*)\|", errors, re.MULTILINE)
    shown = [code for row in rows for code in re.findall(r"`(\w+)`", row)]
    assert len(shown) == len(set(shown))
    assert set(shown) == set(PROBLEM_CODES) == _codes_in_the_code()
    assert list(PROBLEM_CODES) == sorted(PROBLEM_CODES)


def test_the_examples_of_problems_are_sentences_of_the_service():
    examples = EXAMPLES["problems"]
    for kind in _kinds(ServiceError):
        sentence = re.sub(r"\\{.*?\\}", ".+", re.escape(kind.sentence))
        example = examples[kind.code]
        # Where several errors share a code, the first has the example.
        if kind is not RecordWaits:
            assert re.fullmatch(sentence, example["detail"]), kind.code
            assert example["status"] == kind.status
    for status, code in CODE_OF_STATUS.items():
        assert examples[code]["status"] == status


def _kinds(kind):
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _kinds(subclass)


def _codes_in_the_code():
    """Collect the codes of errors, and those written where an image or file is refused."""
    sources = [*ROOT.glob("service/**/*.py"), *ROOT.glob("model/crops/*.py")]
    text = "".join(source.read_text(encoding="utf-8") for source in sources)
    refused = re.findall(r'(?:\w+Problem|_lines|problem)\(\s*"(\w+)"|\bcode="(\w+)"', text)
    of_quality = ["blurred", "dark", "low_resolution", "not_person_shaped", "overexposed"]
    codes = {code for pair in refused for code in pair if code}
    codes |= {kind.code for kind in _kinds(ServiceError)}
    return codes | {*of_quality, *CODE_OF_STATUS.values()}


def test_the_table_of_scopes_is_what_the_calls_ask_for():
    rows = re.findall(
        r"^\| (nothing|`(?:query|enroll|sight|delete|metrics|admin)`.*?) \| (`.*`) \|$",
        REFERENCE,
        re.MULTILINE,
    )
    shown = {call: scopes for scopes, calls in rows for call in re.findall(r"`([^`]+)`", calls)}
    needed = {}
    for route in iter_route_contexts(application().routes):
        if isinstance(route.original_route, APIRoute) and route.path != "/docs/oauth2-redirect":
            scopes = " or ".join(
                f"`{scope}`" for scope in getattr(needs_of(route.original_route), "any_of", ())
            )
            scopes = scopes or "nothing"
            path = re.sub(r":\w+}", "}", route.path)
            needed |= {f"{method} {path}": scopes for method in route.methods}
    assert shown == needed | {"GET /openapi.json": "nothing"}


def test_every_call_has_an_example():
    named = {
        "/entrance": "/{gallery}",
        "/$CROP": "/{crop_id}",
        "/$JOB": "/{job_id}",
        "/$EXPORT": "/{export_id}",
        "/$MERGE": "/{merge_id}",
        "/$QUERY": "/{query_id}",
        "/$CASE": "/{case_id}",
        "/$ID": "/{key_id}",
        "/$ALERT": "/{alert_id}",
        "/$HOOK": "/{webhook_id}",
        "/0198f2c6a1b27d1c3e5f9a0b4c6d8e30": "/{delivery_id}",
        "/0042": "/{identity}",
        "/0043": "/{identity}",
        "/Ann": "/{identity}",
        "/3f9a0b4c6d8e2f01": "/{group_id}",
        "/gate": "/{camera}",
    }
    shown = set()
    (examples,) = BLOCK.findall(REFERENCE)
    examples = examples.replace("$GALLERY", f"{ADDRESS}/v1/galleries/entrance")
    (examples_of_sightings,) = BLOCK.findall(PAGES["sightings"])
    for path in re.findall(rf"{re.escape(ADDRESS)}(/[^\s'?)]+)", examples + examples_of_sightings):
        for written, meant in named.items():
            path = path.replace(written, meant)
        shown.add(path)
    assert shown == set(application().openapi()["paths"])


def test_the_calls_and_models_are_those_that_are_kept():
    kept = reference.API.read_text(encoding="utf-8")
    assert reference.api_page() == kept, "python -m bench.reference writes docs/api.txt"


PICTURES = {
    "exports": {},
    "reference": {"east.png": 0, "west.png": 2, "other.png": 4},
    "seen": {"seen.png": 1, "person.png": 0},
    "sightings": {"east.png": 1},
    "service": {"ann-1.jpg": 0, "ann-2.jpg": 1, "photo.jpg": 2, "bob.jpg": 4},
}


@pytest.mark.parametrize("page", PICTURES)
def test_the_examples_of_a_page_run_as_they_stand(start, images, tmp_path, page):
    for name, number in PICTURES[page].items():
        (tmp_path / name).write_bytes(images[number])
    # A service of its own: the examples of the reference end with one that asks for a key.
    served = start()
    if page == "exports":
        served.create("lobby")
        served.enrolled("lobby", images[0], identity="Ann")
    if page == "sightings":
        served.create("entrance")
        served.enrolled("entrance", images[0], identity="0042")
    script = "\n".join(BLOCK.findall(PAGES[page]))
    url = str(served.http.base_url).rstrip("/")
    ran = run_command(
        "bash",
        "-euo",
        "pipefail",
        "-c",
        script.replace(ADDRESS, url),
        cwd=tmp_path,
        env=os.environ
        | {"GMN_URL": url, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert ran.returncode == 0, ran.stdout[-1000:] + ran.stderr
    if page == "reference":
        assert (tmp_path / "crop.png").read_bytes() == images[0]


def test_a_request_that_is_refused_shows_the_reason(served, tmp_path):
    (tmp_path / "photo.jpg").write_text("notes")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (query,) = re.findall(r"^curl .*/queries .*$", readme, re.MULTILINE)
    command = query.replace(ADDRESS, str(served.http.base_url).rstrip("/"))
    ran = run_command("bash", "-c", command, cwd=tmp_path)
    assert ran.returncode != 0
    assert "are not a JPEG" in ran.stdout
    for page in (readme, *PAGES.values()):
        assert re.findall(r"curl -s[^S ]* .*", page) == []


def test_every_answer_that_the_guide_shows_has_the_fields_of_the_api():
    schemas = application().openapi()["components"]["schemas"]
    enrolled, queried = (
        json.loads(block)
        for block in re.findall(r"^```json\n(.*?)^```", PAGES["service"], re.S | re.M)
    )
    assert set(enrolled) == set(schemas["Enrollment"]["properties"])
    # Sent where they are asked for alone.
    asked = {"vector", "embedding_fingerprint", "crops", "first_seen", "last_seen", "gallery"}
    asked.add("time_log_odds")
    assert set(queried["results"][0]) == set(schemas["RankedCrop"]["properties"]) - asked


def test_every_link_between_the_pages_leads_somewhere():
    pages = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md"), *ROOT.glob("clients/*/*.md")]
    anchors = {page: set(_anchors(page.read_text(encoding="utf-8"))) for page in pages}
    for page in pages:
        for file, anchor in re.findall(
            r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8")
        ):
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), f"{page.name}: {file}"
            assert not anchor or anchor in anchors[target], f"{page.name}: {file}#{anchor}"


def _anchors(text):
    titles = re.findall(r"^##+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
