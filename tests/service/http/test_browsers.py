"""A browser is told which pages it may let use the service."""

import re

import pytest

from model.problems import InputProblem
from service.settings import read_settings
from tests.outside import problem

DESK = "https://desk.example"

PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization",
}


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/openapi.json", "/livez", "/v1/model", "/v1/nothing", "/metrics"]
)
@pytest.mark.parametrize("key", [None, "query"])
def test_every_answer_carries_the_security_headers(guarded, path, key):
    headers = guarded.ask("GET", path, key).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy


def test_the_page_runs_nothing_that_stands_in_its_text(guarded):
    page = guarded.ask("GET", "/")
    assert "text/html" in page.headers["content-type"]
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
    assert not re.search(r"<style|style=|<script[^>]*>[^<]| on[a-z]+=", page.text)
    assets = re.findall(r'(?:src|href)="(/assets/[^"]+)"', page.text)
    assert assets
    for asset in assets:
        answer = guarded.ask("GET", asset)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_pages_of_a_named_origin_may_ask(guarded):
    allowed = guarded.ask("OPTIONS", "/v1/pairs", headers={"Origin": DESK, **PREFLIGHT})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == DESK
    named = {"Origin": DESK, "Sec-Fetch-Site": "cross-site"}
    answer = guarded.ask("GET", "/v1/model", "query", headers=named)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == DESK
    assert "Idempotent-Replayed" in answer.headers["access-control-expose-headers"]
    # Without these a page could not even read why it was refused.
    refused = guarded.ask("GET", "/v1/model", headers={"Origin": DESK})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == DESK


def test_pages_of_other_origins_may_not(guarded):
    elsewhere = {"Origin": "https://elsewhere.example"}
    for answer in (
        guarded.ask("OPTIONS", "/v1/pairs", headers=elsewhere | PREFLIGHT),
        guarded.ask("GET", "/v1/model", "query", headers=elsewhere),
    ):
        assert problem(answer) == (403, "cross_origin")
        assert "access-control-allow-origin" not in answer.headers


def test_without_the_setting_no_page_of_another_origin_may(served):
    answer = served.http.options("/v1/pairs", headers={"Origin": DESK, **PREFLIGHT})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in served.http.get("/livez").headers


@pytest.mark.parametrize("origins", ["*", "desk.example", "https://desk.example/page", "null"])
def test_an_origin_that_is_none_is_named(monkeypatch, origins):
    monkeypatch.setenv("GMN_CORS_ORIGINS", origins)
    with pytest.raises(InputProblem, match="GMN_CORS_ORIGINS"):
        read_settings()


def test_several_origins_stand_with_commas_between(monkeypatch):
    monkeypatch.setenv("GMN_CORS_ORIGINS", "https://a.example, http://b.example:81")
    assert read_settings().cors_origins == ("https://a.example", "http://b.example:81")


@pytest.mark.promise("other-sites")
@pytest.mark.parametrize("path", ["/v1/galleries/default/similar?identity=Ann", "/metrics"])
def test_a_page_of_another_site_gets_no_data_without_a_key(served, path):
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    refused = served.http.get(path, headers=foreign)
    assert problem(refused) == (403, "cross_origin")
    assert served.http.get("/", headers=foreign).status_code == 200
    assert served.http.get("/metrics", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
