"""docs/service.md says what is so: settings, calls, errors, metrics and promises."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from service.http.app import create_app
from service.http.problems import CODE_OF_STATUS, STATUS_OF_CODE
from service.http.security import needs_of
from service.ops.metrics import Metrics
from service.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
EXAMPLES = re.search(r"```sh\n(.*?)```", PAGE, re.DOTALL)
ADDRESS = "http://127.0.0.1:8000"


def shown(default: Any) -> str:
    if default is None or default == ():
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def test_the_table_of_settings_is_that_of_the_settings() -> None:
    table = dict(re.findall(rf"^\| `({PREFIX}[A-Z_]+)` \| ([^|]+) \|", PAGE, re.MULTILINE))
    fields = Settings.model_fields
    assert table == {
        PREFIX + name.upper(): shown(field.default)
        if field.default_factory is None
        else "cores − 1"
        for name, field in fields.items()
    }


def test_every_metric_is_listed() -> None:
    listed = set(re.findall(r"`(gmn_[a-z_]+)`", PAGE))
    registered = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name
        for metric in Metrics().registry.collect()
    }
    assert listed == registered


def test_every_kind_of_problem_has_its_remedy() -> None:
    errors = PAGE.split("## Errors")[1].split("##")[0]
    for code in {*STATUS_OF_CODE, *CODE_OF_STATUS.values(), "cross_origin"}:
        assert f"`{code}`" in errors, code


def test_the_table_of_scopes_is_what_the_calls_ask_for() -> None:
    rows = re.findall(
        r"^\| (nothing|`(?:query|enroll|metrics|admin)`.*?) \| (`.*`) \|$", PAGE, re.MULTILINE
    )
    told = {call: scopes for scopes, calls in rows for call in re.findall(r"`([^`]+)`", calls)}
    asked = {}
    for route in iter_route_contexts(create_app(Settings()).routes):
        if isinstance(route.original_route, APIRoute) and route.path != "/docs/oauth2-redirect":
            scopes = " or ".join(f"`{scope}`" for one in needs_of(route) for scope in one.any_of)
            path = re.sub(r":\w+}", "}", route.path)
            asked |= {f"{method} {path}": scopes or "nothing" for method in route.methods}
    assert told == asked | {"GET /openapi.json": "nothing"}


def test_every_call_has_an_example() -> None:
    assert EXAMPLES
    named = {
        "/entrance": "/{gallery}",
        "/$CROP": "/{crop_id}",
        "/$JOB": "/{job_id}",
        "/$SNAPSHOT": "/{snapshot_id}",
        "/0043": "/{identity}",
        "/Ann": "/{identity}",
    }
    asked = set()
    for path in re.findall(rf"{re.escape(ADDRESS)}(/[^\s'?)]+)", EXAMPLES[1]):
        for written, meant in named.items():
            path = path.replace(written, meant)
        asked.add(path)
    assert asked == set(create_app(Settings()).openapi()["paths"])


def test_the_openapi_document_changes_only_when_somebody_means_it_to() -> None:
    kept = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
    assert create_app(Settings()).openapi() == kept, "keep what /openapi.json answers in docs/"


def test_the_examples_run_as_they_stand(served, drawn_crops, tmp_path) -> None:
    assert EXAMPLES
    for name, number in (("east", 0), ("west", 2), ("other", 4)):
        (tmp_path / f"{name}.png").write_bytes(drawn_crops[number].png)
    script = EXAMPLES[1].replace(ADDRESS, str(served.http.base_url).rstrip("/"))
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-1000:] + ran.stderr
    assert (tmp_path / "crop.png").read_bytes() == drawn_crops[0].png


@pytest.mark.parametrize("test", re.findall(r"`(tests/[a-z_/]+\.py::test_\w+)`", PAGE))
def test_every_promise_names_a_test_that_is_there(test) -> None:
    file, _, name = test.partition("::")
    assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")
