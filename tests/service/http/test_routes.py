"""Every route says what its caller needs, or is one of the few that are open."""

import asyncio
from types import SimpleNamespace
from urllib.parse import unquote

import httpx2
import pytest
from fastapi import FastAPI
from starlette.routing import Match

from service.api_keys import create_key
from service.app import create_app
from service.http.guard import OPEN, GuardedRoute
from service.http.problems import handle_errors
from service.settings import Settings
from service.sign_on import SignOn
from tests.outside import bearer

APP = create_app(Settings())


def test_the_openapi_document_says_which_calls_need_a_key():
    document = APP.openapi()
    assert document["components"]["securitySchemes"]["api_key"]["scheme"] == "bearer"
    for path, calls in document["paths"].items():
        for call in calls.values():
            assert (call.get("security") == [{"api_key": []}]) == (path not in OPEN), path
            # It is open to who has its signature.
            refuses = path not in OPEN or path.endswith("/signed-image")
            assert ("401" in call["responses"]) == refuses, path


async def answer():
    return "something"


def status_of(app, path, key=None):
    async def ask():
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://service") as client:
            headers = bearer(key) if key else {}
            return (await client.get(path, headers=headers)).status_code

    return asyncio.run(ask())


def test_a_route_that_declares_nothing_needs_admin(store, ring_of):
    texts = {}
    for scope in ("query", "enroll", "admin"):
        key, texts[scope] = create_key(scopes=[scope])
        store.keys.add(key)
    app = FastAPI()
    app.router.route_class = GuardedRoute
    app.get("/forgotten")(answer)
    handle_errors(app)
    app.state.runtime = SimpleNamespace(
        keys=ring_of(),
        sign_on=SignOn(Settings()),
        audit=SimpleNamespace(note_refusal=lambda *_: None),
    )
    found = {scope: status_of(app, "/forgotten", text) for scope, text in texts.items()}
    assert found == {"query": 403, "enroll": 403, "admin": 200}


SUFFIXED = [
    route for route in APP.routes if isinstance(route, GuardedRoute) and ":path}/" in route.path
]


@pytest.mark.parametrize("route", SUFFIXED, ids=lambda route: route.path)
def test_a_name_that_ends_like_the_path_of_a_call_is_a_name(route):
    before, _, suffix = route.path.replace("{gallery}", "lobby").partition("{")
    (method, *_) = route.methods
    suffix = suffix.partition("}")[2]

    def name_in(raw_path):
        scope = {"type": "http", "method": method, "path": unquote(raw_path)}
        match, found = route.matches({**scope, "raw_path": raw_path.encode()})
        return match is Match.FULL and list(found["path_params"].values())[-1]

    assert name_in(f"{before}anna{suffix}") == "anna"
    assert name_in(f"{before}an/na{suffix}") == "an/na"
    assert name_in(f"{before}an%2Fna%20%C3%BC{suffix}") == "an/na ü"
    assert name_in(f"{before}anna%2F{suffix[1:]}{suffix}") == f"anna{suffix}"
    assert name_in(f"{before}anna%252F{suffix[1:]}{suffix}") == f"anna%2F{suffix[1:]}"
    for slash in ("%2F", "%2f"):
        assert name_in(f"{before}anna{slash}{suffix[1:]}") is False
        assert name_in(f"{before}anna{slash}%{ord(suffix[1]):x}{suffix[2:]}") is False
