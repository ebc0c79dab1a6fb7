"""docs/service.md and docs/reference.md agree with the service."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from bench import reference
from bench.tables import page_of, replace_table
from gmn_client.models import PROBLEM_CODES
from model.crops.quality import CropQuality, QualityLimits, quality_faults
from service.errors import ServiceError
from service.http.app import VERSION, create_app
from service.http.guard import needs_of
from service.http.problems import CODE_OF_STATUS, EXAMPLES
from service.record.transaction import ChangesLost
from service.settings import Settings

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
WATCH = (ROOT / "docs" / "watch.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
ADDRESS = "http://127.0.0.1:8000"


def run(page: str, folder: Path, url: str) -> None:
    """Run the page's blocks marked `sh` as one script, against a service at `url`."""
    script = "\n".join(BLOCK.findall(page)).replace(ADDRESS, url.rstrip("/"))
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ
        | {"GMN_URL": url, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-1000:] + ran.stderr


@pytest.mark.parametrize("name", reference.TABLES)
def test_the_tables_of_settings_and_of_what_remains_are_those_of_the_service(name: str) -> None:
    page = page_of(name).read_text(encoding="utf-8")
    written = replace_table(page, name, reference.TABLES[name]())
    assert written == page, "run python -m bench.reference"


def test_the_version_is_the_same_everywhere_and_has_its_changes() -> None:
    versions = {VERSION} | {
        tomllib.loads((ROOT / name).read_text(encoding="utf-8"))["project"]["version"]
        for name in ("pyproject.toml", "gmn_client/pyproject.toml")
    }
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert versions == {re.findall(r"^## (\S+)$", changes, re.MULTILINE)[0]}


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_every_kind_of_problem_has_its_remedy() -> None:
    errors = REFERENCE.split("## Errors")[1].split("\n## ")[0]
    rows = re.findall(r"^\| \d[^|]*\| ([^|]*)\|", errors, re.MULTILINE)
    shown = [code for row in rows for code in re.findall(r"`(\w+)`", row)]
    assert len(shown) == len(set(shown))
    assert set(shown) == set(PROBLEM_CODES) == _codes_in_the_code()
    assert list(PROBLEM_CODES) == sorted(PROBLEM_CODES)


def test_the_examples_of_problems_are_sentences_of_the_service() -> None:
    examples = EXAMPLES["problems"]
    for kind in _kinds(ServiceError):
        sentence = re.sub(r"\\{.*?\\}", ".+", re.escape(kind.sentence))
        example = examples[kind.code]
        # Where errors of two stores share a code, the first has the example; one is never sent.
        if kind is not ChangesLost:
            assert re.fullmatch(sentence, example["detail"]), kind.code
            assert example["status"] == kind.status
    for status, code in CODE_OF_STATUS.items():
        assert examples[code]["status"] == status


def _kinds(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _kinds(subclass)


def _codes_in_the_code() -> set[str]:
    """Collect the codes of errors, and those written where an image or file is refused."""
    codes = {*(kind.code for kind in _kinds(ServiceError)), *CODE_OF_STATUS.values()}
    worst = CropQuality(width=1, height=1, sharpness=0.0, brightness=0.0, shadow=1.0)
    strict = QualityLimits(
        min_width=2, min_height=2, min_aspect=2, min_sharpness=0.5, min_brightness=0.5
    )
    codes |= {fault.code for fault in quality_faults(worst, strict)}
    refusals = {"CropProblem", "JobProblem", "_lines", "problem"}
    for file in [*ROOT.glob("service/**/*.py"), *ROOT.glob("model/crops/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in refusals:
                named = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
                codes |= {
                    argument.value for argument in (*node.args[:1], *named) if _is_text(argument)
                }
    return codes


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_the_table_of_scopes_is_what_the_calls_ask_for() -> None:
    rows = re.findall(
        r"^\| (nothing|`(?:query|enroll|sight|delete|metrics|admin)`.*?) \| (`.*`) \|$",
        REFERENCE,
        re.MULTILINE,
    )
    shown = {call: scopes for scopes, calls in rows for call in re.findall(r"`([^`]+)`", calls)}
    needed = {}
    for route in iter_route_contexts(create_app(Settings()).routes):
        if isinstance(route.original_route, APIRoute) and route.path != "/docs/oauth2-redirect":
            scopes = " or ".join(
                f"`{scope}`" for scope in getattr(needs_of(route.original_route), "any_of", ())
            )
            scopes = scopes or "nothing"
            path = re.sub(r":\w+}", "}", route.path)
            needed |= {f"{method} {path}": scopes for method in route.methods}
    assert shown == needed | {"GET /openapi.json": "nothing"}


def test_every_call_has_an_example() -> None:
    named = {
        "/entrance": "/{gallery}",
        "/$CROP": "/{crop_id}",
        "/$JOB": "/{job_id}",
        "/$SNAPSHOT": "/{snapshot_id}",
        "/$MERGE": "/{merge_id}",
        "/$QUERY": "/{query_id}",
        "/$CASE": "/{case_id}",
        "/$ID": "/{key_id}",
        "/$ALERT": "/{alert_id}",
        "/$HOOK": "/{webhook_id}",
        "/0198f2c6a1b27d1c3e5f9a0b4c6d8e30": "/{delivery_id}",
        "/0043": "/{identity}",
        "/Ann": "/{identity}",
    }
    shown = set()
    (examples,) = BLOCK.findall(REFERENCE)
    examples = examples.replace("$GALLERY", f"{ADDRESS}/v1/galleries/entrance")
    (examples_of_watch,) = BLOCK.findall(WATCH)
    for path in re.findall(rf"{re.escape(ADDRESS)}(/[^\s'?)]+)", examples + examples_of_watch):
        for written, meant in named.items():
            path = path.replace(written, meant)
        shown.add(path)
    assert shown == set(create_app(Settings()).openapi()["paths"])


def test_the_calls_and_models_are_those_that_are_kept() -> None:
    kept = reference.API.read_text(encoding="utf-8")
    assert reference.api_page() == kept, "python -m bench.reference writes docs/api.txt"


def test_the_examples_of_the_reference_run_as_they_stand(start, drawn_crops, tmp_path) -> None:
    for name, number in (("east", 0), ("west", 2), ("other", 4)):
        (tmp_path / f"{name}.png").write_bytes(drawn_crops[number].png)
    # A service of its own: the examples end with one that asks for a key.
    run(REFERENCE, tmp_path, str(start().http.base_url))
    assert (tmp_path / "crop.png").read_bytes() == drawn_crops[0].png


def test_the_examples_of_watch_lists_run_as_they_stand(start, drawn_crops, tmp_path) -> None:
    served = start()
    served.create("entrance")
    assert served.enroll("entrance", drawn_crops[0].png, identity="0042").status_code == 201
    (tmp_path / "east.png").write_bytes(drawn_crops[1].png)
    run(WATCH, tmp_path, str(served.http.base_url))


def test_the_first_hour_of_the_guide_runs_as_it_stands(start, drawn_crops, tmp_path) -> None:
    for name, number in (("ann-1", 0), ("ann-2", 1), ("photo", 2), ("bob", 4)):
        (tmp_path / f"{name}.jpg").write_bytes(drawn_crops[number].png)
    run(GUIDE, tmp_path, str(start().http.base_url))


def test_a_request_that_is_refused_shows_the_reason(served, tmp_path) -> None:
    (tmp_path / "photo.jpg").write_text("notes")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (query,) = re.findall(r"^curl .*/queries .*$", readme, re.MULTILINE)
    command = query.replace(ADDRESS, str(served.http.base_url).rstrip("/"))
    ran = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode != 0
    assert "are not a JPEG" in ran.stdout
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        silent = re.findall(r"curl -s[^S ]* .*", page.read_text(encoding="utf-8"))
        assert silent == [], page.name


def test_every_answer_that_the_guide_shows_has_the_fields_of_the_api() -> None:
    schemas = create_app(Settings()).openapi()["components"]["schemas"]
    enrolled, queried = (
        json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", GUIDE, re.DOTALL | re.M)
    )
    assert set(enrolled) == set(schemas["Enrollment"]["properties"])
    # Sent where they are asked for alone.
    asked = {"vector", "embedding_fingerprint", "crops", "first_seen", "last_seen", "gallery"}
    assert set(queried["results"][0]) == set(schemas["RankedCrop"]["properties"]) - asked


def test_every_link_between_the_pages_leads_somewhere() -> None:
    pages = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md")]
    anchors = {page: set(_anchors(page.read_text(encoding="utf-8"))) for page in pages}
    for page in pages:
        for file, anchor in re.findall(
            r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8")
        ):
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), f"{page.name}: {file}"
            assert not anchor or anchor in anchors[target], f"{page.name}: {file}#{anchor}"


def _anchors(text: str) -> list[str]:
    titles = re.findall(r"^##+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
