"""Users whom a proxy has signed on have the rights of their groups, and nobody else is a user."""

import contextlib
import json
import re
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from starlette.datastructures import Headers

from model.problems import InputProblem
from service.api_keys import KeyRing
from service.errors import Unauthorised
from service.opening import open_folder
from service.record.keys import NO_HASH
from service.settings import read_settings
from service.sign_on import REMOVED_HEADERS, SignOn, User
from tests.machines.proxy import PROGRAM, Proxy
from tests.outside import bearer, problem
from tests.service.client.http_servers import LocalServer, running
from tests.service.conftest import files
from tests.service.test_behind_proxies import admin_key_in, shipped_proxy
from tests.waiting import eventually

SIGN_ON = {
    "user_header": "Remote-User",
    "groups_header": "Remote-Groups",
    "groups": "guards=query@lobby; staff=query,enroll; admins=admin; garage=query@garage",
    "trusted_proxies": "127.0.0.1",
}
OWN_PAGE = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture(scope="module")
def signed(start, tmp_path_factory):
    """Return a service behind a proxy that signs users on; its client has no key."""
    file, text = admin_key_in(tmp_path_factory.mktemp("keys"))
    data_dir = tmp_path_factory.mktemp("data")
    running = start(data_dir=data_dir, api_keys_file=file, **SIGN_ON)
    running.key = bearer(text)
    running.audit = data_dir / "audit.jsonl"
    for name in ("lobby", "garage"):
        made = running.http.post("/v1/galleries", data={"name": name}, headers=running.key)
        assert made.status_code == 201, made.text
    return running


def user(name="ann", groups="staff"):
    return {"Remote-User": name, "Remote-Groups": groups, **OWN_PAGE}


def query(served, headers, images, gallery="lobby"):
    return served.http.post(
        f"/v1/galleries/{gallery}/queries", files=files(images[0]), headers=headers
    )


def test_a_user_may_do_what_the_groups_may(signed, images):
    guard = user("ann", "guards, others")
    assert query(signed, guard, images).status_code == 200
    assert problem(query(signed, guard, images, "garage")) == (403, "forbidden")
    url = "/v1/galleries/lobby/crops"
    refused = signed.http.post(url, files=files(images[0]), headers=guard)
    assert problem(refused) == (403, "forbidden")
    assert "user:ann" in refused.json()["detail"]
    staff = user("bob", "guards,staff")
    assert signed.http.post(url, files=files(images[0]), headers=staff).status_code == 201
    assert query(signed, staff, images, "garage").status_code == 200


def test_a_user_of_no_known_group_may_do_nothing(signed, images):
    for groups in ("", "visitors", "guard", "GUARDS"):
        answer = query(signed, user("eve", groups), images)
        assert problem(answer) == (403, "forbidden")
        assert "'eve' has no group" in answer.json()["detail"]
    endless = {**user("eve"), "Remote-Groups": ("e" + "\u0301" * 10_000 + ",visitors").encode()}
    assert problem(query(signed, endless, images)) == (403, "forbidden")
    several = query(signed, user("eve", "guards,garage"), images)
    assert "garage, lobby" in several.json()["detail"]


def test_without_user_and_key_nobody_is_let_in(signed, images):
    assert problem(query(signed, OWN_PAGE, images)) == (401, "unauthorised")
    answer = query(signed, {"Remote-Groups": "admins"}, images)
    assert problem(answer) == (401, "unauthorised")
    assert "sign on at its proxy" in answer.json()["detail"]


def test_a_request_with_a_key_is_the_keys(signed, images):
    answer = signed.http.get("/v1/keys", headers=signed.key | user("eve", "visitors"))
    assert answer.status_code == 200
    wrong = bearer("gmn_000000000000_" + 43 * "x") | user("ann", "admins")
    assert problem(signed.http.get("/v1/keys", headers=wrong)) == (401, "unauthorised")


def test_another_site_changes_nothing_by_a_users_cookie(signed, images):
    for site in ("cross-site", "same-site", "none"):
        headers = user() | {"Sec-Fetch-Site": site}
        assert query(signed, headers, images).status_code == 403
    anything = {name: value for name, value in user().items() if name not in OWN_PAGE}
    assert problem(query(signed, anything, images)) == (403, "forbidden")
    host = urlsplit(str(signed.http.base_url)).netloc
    older = anything | {"Origin": f"http://{host}"}
    assert query(signed, older, images).status_code == 200
    # A link to the service's own pages may be anywhere.
    assert signed.http.get("/v1/galleries", headers=anything).status_code == 200


@pytest.mark.parametrize("name", ["", "a" * 65, "ann\u0085", "ann\u202e"])
def test_what_is_no_name_is_no_user(signed, name):
    headers = [("Remote-User", name.encode()), ("Remote-Groups", b"admins")]
    assert problem(signed.http.get("/v1/keys", headers=headers)) == (401, "unauthorised")


def test_a_name_beside_that_of_the_proxy_is_no_user(signed):
    headers = [("Remote-User", "ann"), ("remote-user", "root"), ("Remote-Groups", "admins")]
    answer = signed.http.get("/v1/keys", headers=headers)
    assert problem(answer) == (401, "unauthorised")
    assert "several times" in answer.json()["detail"]


def test_users_are_named_in_the_log_with_their_spelling(signed, images):
    headers = user() | {"Remote-User": "zoë".encode()}
    assert query(signed, headers, images).status_code == 200

    def is_named():
        lines = map(json.loads, signed.audit.read_text().splitlines())
        return any(line["actor"] == "user:zoë" for line in lines)

    eventually(is_named)


def test_a_users_case_is_not_that_of_others(signed):
    url = "/v1/galleries/lobby/cases"
    made = signed.http.post(url, data={"name": "bag"}, headers=user("ann"))
    assert made.status_code == 201, made.text
    path = f"{url}/{made.json()['case_id']}"
    assert problem(signed.http.delete(path, headers=user("bob"))) == (403, "forbidden")
    assert signed.http.delete(path, headers=user("ann")).status_code in (200, 204)


def test_other_machines_name_no_user(tmp_path):
    settings = read_settings(data_dir=tmp_path, **SIGN_ON | {"trusted_proxies": "10.3.0.0/16"})
    sign_on = SignOn(settings)
    headers = Headers(user("ann", "admins"))
    for peer in ("127.0.0.1", "10.4.0.1", "", None, "unix", "::1"):
        assert sign_on.find_user(headers, peer) is None
    for peer in ("10.3.0.1", "::ffff:10.3.0.1"):
        assert sign_on.find_user(headers, peer).key_id == "user:ann"


def signed_on_by(header, groups, tmp_path):
    """Return the scopes of a user whose groups a proxy names in a header."""
    settings = read_settings(data_dir=tmp_path, **SIGN_ON | {"groups_header": header})
    headers = Headers(raw=[(b"remote-user", b"eve"), (header.lower().encode(), groups)])
    return SignOn(settings).find_user(headers, "127.0.0.1").scopes


@pytest.mark.parametrize(
    ("header", "groups"),
    [
        ("X-Authentik-Groups", b"staff|Sales, admins"),
        ("X-Authentik-Groups", b"staff|Sales,admins"),
        ("X-Authentik-Groups", b"staff|x;admins"),
        ("X-Authentik-Groups", b"staff| admins|guards"),
        ("Remote-Groups", b"staff,x|admins"),
        ("Remote-Groups", b"staff,x;admins"),
        ("X-Forwarded-Groups", b"x|admins|x,staff"),
        ("X-Auth-Request-Groups", b"staff,x;admins;x"),
        ("X-Forwarded-Groups", b"staff, admins,guards"),
        ("X-Other-Groups", b"staff,x;admins|x"),
    ],
)
def test_the_name_of_a_group_gives_the_rights_of_no_other_group(header, groups, tmp_path):
    assert signed_on_by(header, groups, tmp_path) == ("query", "enroll")


@pytest.mark.parametrize(
    ("header", "groups"),
    [
        ("X-Authentik-Groups", b"others|admins|staff"),
        ("x-authentik-groups", b"others|admins|staff"),
        ("Remote-Groups", b"others,admins,staff"),
        ("X-Forwarded-Groups", b"others,admins,staff"),
    ],
)
def test_each_proxy_has_its_separator(header, groups, tmp_path):
    assert signed_on_by(header, groups, tmp_path) == ("query", "enroll", "admin")


def test_a_group_may_be_called_like_a_separator_of_other_proxies(tmp_path):
    given = {"groups_header": "X-Authentik-Groups", "groups": "Sales, guards=query; x|y=admin"}
    with pytest.raises(InputProblem, match=r"'x\|y'.*rename the group"):
        read_settings(data_dir=tmp_path, **SIGN_ON | given)
    given["groups"] = "Sales, guards=query"
    sign_on = SignOn(read_settings(data_dir=tmp_path, **SIGN_ON | given))
    headers = Headers({"Remote-User": "ann", "X-Authentik-Groups": "others|Sales, guards"})
    assert sign_on.find_user(headers, "127.0.0.1").scopes == ("query",)


def test_groups_beside_those_of_the_proxy_give_nothing(signed):
    headers = [("Remote-User", "ann"), ("Remote-Groups", "guards"), ("remote-groups", "admins")]
    answer = signed.http.get("/v1/keys", headers=headers)
    assert problem(answer) == (401, "unauthorised")
    assert "Remote-Groups is there several times" in answer.json()["detail"]


def test_a_stream_of_a_user_ends_after_a_while(tmp_path):
    with contextlib.closing(open_folder(tmp_path)) as record:
        ring = KeyRing(record.keys, None, loopback=True, signs_on=True)
        assert not ring.is_open
        begun = datetime.now(UTC)
        ring.require_valid(User("user:ann", NO_HASH, ("query",), created_at=begun))
        long_ago = begun - timedelta(minutes=16)
        with pytest.raises(Unauthorised, match="some time ago"):
            ring.require_valid(User("user:ann", NO_HASH, ("query",), created_at=long_ago))
        ring.threads.shutdown()


@pytest.mark.parametrize("missing", SIGN_ON)
def test_a_sign_on_without_one_of_its_settings_is_refused(missing, tmp_path):
    given = {name: value for name, value in SIGN_ON.items() if name != missing}
    with pytest.raises(InputProblem, match=f"GMN_{missing.upper()}: missing"):
        read_settings(data_dir=tmp_path, **given)


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("groups", "guards", "is no group with its rights"),
        ("groups", "=query", "is no group with its rights"),
        ("groups", "guards=look", "is no group with its rights"),
        ("groups", "guards=query@a b", "is no name"),
        ("groups", "guards=query; guards=admin", "twice"),
        ("groups", "Sales, guards=query", "'Sales, guards' has ','"),
        ("trusted_proxies", "proxy.local", "is no address or network"),
        ("user_header", "Remote User", "GMN_USER_HEADER"),
    ],
)
def test_settings_of_the_sign_on_that_mean_nothing_are_refused(setting, value, why, tmp_path):
    with pytest.raises(InputProblem, match=why):
        read_settings(data_dir=tmp_path, **SIGN_ON | {setting: value})


@contextlib.contextmanager
def answering(answer):
    """Yield the address of a server whose GET is answered by a function of the handler."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer(self)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with running(LocalServer(Handler)) as server:
        yield f"127.0.0.1:{server.server_port}"


@pytest.fixture
def received():
    """Yield the address of a server, and the headers of the requests that reach it."""
    headers = []

    def answer(request):
        headers.append(request.headers)
        request.send_response(200)

    with answering(answer) as address:
        yield address, headers


@pytest.mark.parametrize("name", ["nginx", "caddy"])
def test_a_shipped_proxy_removes_each_header_of_a_user(received, name, tmp_path):
    address, headers = received
    with shipped_proxy(name, address, tmp_path) as client:
        client.get("/v1/keys", headers=dict.fromkeys([*REMOVED_HEADERS, "x-other"], "forged"))
    assert headers[-1]["x-other"] == "forged"
    assert not [header for header in headers[-1] if header.lower() in REMOVED_HEADERS]


def test_haproxy_removes_each_header_of_a_user(received, tmp_path):
    if PROGRAM is None:
        pytest.skip("haproxy is not installed")
    address, headers = received
    port = int(address.rpartition(":")[2])
    proxy = Proxy(tmp_path, (port, port))
    try:
        proxy.http.get("/v1/keys", headers=dict.fromkeys([*REMOVED_HEADERS, "x-other"], "forged"))
    finally:
        proxy.close()
    # The others are checks of health.
    (forwarded,) = (sent for sent in headers if "x-other" in sent)
    assert not [header for header in forwarded if header.lower() in REMOVED_HEADERS]


GUIDE = (Path(__file__).parents[2] / "docs" / "sign-on.md").read_text()
# The shipped lines that those of the guide replace.
REMOVING = {
    "nginx": re.compile(r'( +proxy_set_header (Remote|X-\w+)-(?!For|Proto)[\w-]+ "";\n)+'),
    "caddy": re.compile(r"(\trequest_header -[\w-]+\n)+"),
}


@pytest.fixture
def authority():
    """Yield the address of a stand-in for Authelia, which signs Ann on, and nobody else."""

    def answer(request):
        if request.headers.get("Cookie") != "session=ann":
            request.send_response(401)
            return
        request.send_response(200)
        request.send_header("Remote-User", "ann")
        request.send_header("Remote-Groups", "guards")

    with answering(answer) as address:
        yield address


@pytest.mark.parametrize("name", ["nginx", "caddy"])
def test_a_proxy_by_the_guide_signs_a_user_on(signed, images, authority, name, tmp_path):
    (lines,) = re.findall(rf"```{name}\n(.*?)```", GUIDE, re.DOTALL)
    lines = lines.replace("127.0.0.1:9091", authority)

    def by_the_guide(shipped):
        changed, count = REMOVING[name].subn(lambda _: lines, shipped)
        assert count == 1
        return changed

    address = urlsplit(str(signed.http.base_url)).netloc
    with shipped_proxy(name, address, tmp_path, by_the_guide) as client:
        client.headers.update({"Cookie": "session=ann", **OWN_PAGE})
        url = "/v1/galleries/lobby/queries"
        assert client.post(url, files=files(images[0])).status_code == 200
        forged = {"Remote-User": "root", "Remote-Groups": "admins"}
        assert problem(client.get("/v1/keys", headers=forged)) == (403, "forbidden")
        assert "user:ann" in client.get("/v1/keys", headers=forged).json()["detail"]
        client.headers["Cookie"] = "session=eve"
        assert client.post(url, files=files(images[0])).status_code in (302, 401)


@pytest.mark.parametrize("name", ["nginx", "caddy"])
def test_no_client_of_a_shipped_proxy_names_a_user(signed, name, tmp_path):
    address = urlsplit(str(signed.http.base_url)).netloc
    with shipped_proxy(name, address, tmp_path) as client:
        for spelling in ("Remote-User", "remote-user", "REMOTE-USER"):
            forged = {spelling: "ann", "Remote-Groups": "admins", **OWN_PAGE}
            assert problem(client.get("/v1/keys", headers=forged)) == (401, "unauthorised")
        assert client.get("/v1/keys", headers=signed.key).status_code == 200
