"""Every route says what its caller needs, or is one of the few that are open."""

import asyncio
from types import SimpleNamespace

import httpx2
from fastapi import FastAPI

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
