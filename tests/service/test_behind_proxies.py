"""Requests with superfluous slashes, directly and through the proxies of docker/."""

import contextlib
import json
import re
import ssl
import subprocess
from pathlib import Path
from secrets import token_hex
from urllib.parse import urlsplit

import httpx2
import pytest

from service.api_keys import create_key
from service.commands.processes import IDLE_SECONDS
from tests.outside import bearer, certificate_in, free_port, installed, problem
from tests.service.conftest import files
from tests.waiting import eventually

DOCKER = Path(__file__).parents[2] / "docker"
# docker/nginx.conf and docker/Caddyfile name this address of the service.
BACKEND = "127.0.0.1:8000"
AS_A_PROXY = {"Host": BACKEND, "X-Forwarded-For": "10.0.0.9", "X-Forwarded-Proto": "https"}
OPEN_PAGES = ("/docs", "/openapi.json", "/metrics", "/livez", "/readyz")


def calls_of(served):
    """Yield method and path of every call, with a name in each place."""
    for path, calls in served.http.get("/openapi.json").json()["paths"].items():
        for method in calls:
            yield method.upper(), re.sub(r"\{\w+\}", "default", path)


def with_slashes(path):
    yield f"{path}/"
    yield f"{path}//"
    yield f"/{path}"
    head, _, tail = path[1:].rpartition("/")
    if head:
        yield f"/{head}//{tail}"


def test_no_superfluous_slash_leads_to_another_address(served):
    calls = [*calls_of(served), *(("GET", page) for page in OPEN_PAGES)]
    assert len(calls) > 60
    for method, path in calls:
        for wrong in with_slashes(path):
            url = str(served.http.base_url).rstrip("/") + wrong
            answer = served.http.request(method, url, headers=AS_A_PROXY)
            assert answer.status_code in (401, 404), f"{method} {wrong}: {answer.status_code}"
            assert "location" not in answer.headers
            # An identity or a camera may contain slashes, so that these are other ones.
            if not re.search("/(identities|cameras)/.", wrong):
                assert problem(answer) == (404, "not_found")
                assert f"without superfluous slashes it is {path}, " in answer.json()["detail"]


def test_the_page_is_not_found_under_two_slashes(served):
    answer = served.http.get(f"{served.http.base_url}//")
    assert problem(answer) == (404, "not_found")
    assert "it is /, and" in answer.json()["detail"]


def test_a_path_that_leads_nowhere_in_any_case_is_not_corrected(served):
    answer = served.http.get("/v1/nothing/", headers={"Host": "localhost"})
    assert answer.json()["detail"] == "there is nothing at /v1/nothing/; /docs lists every call"


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_nobody_is_meant_by_an_identity_without_a_name(served, gallery, method):
    path = f"/v1/galleries/{gallery}/identities"
    answer = served.http.request(method, f"{path}/")
    assert problem(answer) == (404, "not_found")
    assert f"it is {path}, and" in answer.json()["detail"]


@contextlib.contextmanager
def running_proxy(command, folder, port):
    """Yield a client of a proxy, which runs until the block ends."""
    log = folder / "proxy.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdout=errors, stderr=errors, cwd=folder)
    try:
        url = f"https://reid.example.org:{port}"
        with through(port, folder / "fullchain.pem", url) as client:

            def is_up():
                assert process.poll() is None, log.read_text()
                with contextlib.suppress(httpx2.ConnectError):
                    # A proxy that signs users on sends nobody on yet.
                    return client.get("/livez").status_code in (200, 302, 401)
                return False

            eventually(is_up)
            yield client
    finally:
        process.terminate()
        process.wait(20)


def through(port, certificate, url):
    # The cached default context would come to trust the certificate everywhere.
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.load_verify_locations(certificate)
    resolving = LocalNames(verify=tls, port=port)
    return httpx2.Client(base_url=url, transport=resolving, timeout=60.0)


class LocalNames(httpx2.HTTPTransport):
    """Sends requests for reid.example.org to this machine."""

    def __init__(self, port, **options):
        super().__init__(**options)
        self._port = port

    def handle_request(self, request):
        name = request.url.host
        request.url = request.url.copy_with(host="127.0.0.1", port=self._port)
        request.extensions = {**request.extensions, "sni_hostname": name}
        return super().handle_request(request)


def admin_key_in(folder):
    """Write a file of keys, and return it with the text of its only key."""
    key, text = create_key(scopes=["admin"])
    file = folder / "keys"
    kept = {"key_id": key.key_id, "secret_sha256": key.secret_sha256, "scopes": ["admin"]}
    file.write_text(json.dumps(kept))
    return file, text


@pytest.fixture(scope="module")
def keyed(start, tmp_path_factory):
    """Return a service with a key, without which it answers nobody behind a proxy."""
    file, text = admin_key_in(tmp_path_factory.mktemp("keys"))
    running = start(api_keys_file=file)
    running.http.headers.update(bearer(text))
    return running


@contextlib.contextmanager
def shipped_proxy(name, backend, folder, adapt=lambda shipped: shipped):
    """Yield a client of nginx or Caddy with the file of docker/, in front of an address.

    Args:
        adapt: changes the file as a guide says.
    """
    program = installed(name)
    port = free_port()
    key, certificate = certificate_in(folder)
    if name == "nginx":
        own = adapt((DOCKER / "nginx.conf").read_text())
        for shipped, adapted in (
            ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
            ("/etc/ssl/reid.example.org", str(folder)),
            ("/var/log/nginx", str(folder)),
            (BACKEND, backend),
        ):
            assert shipped in own
            own = own.replace(shipped, adapted)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        folders = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
        file = folder / "nginx.conf"
        file.write_text(
            f"daemon off; pid {folder}/pid; error_log stderr; events {{}}\n"
            f"http {{ {folders}\n{own} }}\n"
        )
        command = [program, "-p", folder, "-c", file]
    else:
        own = adapt((DOCKER / "Caddyfile").read_text())
        for shipped, adapted in (
            (
                "\nreid.example.org {",
                f"\nhttps://reid.example.org:{port} {{\n"
                f"\tbind 127.0.0.1\n\ttls {certificate} {key}",
            ),
            (BACKEND, backend),
        ):
            assert shipped in own
            own = own.replace(shipped, adapted)
        # Without these it would listen at ports 80 and 2019, and write to the home directory.
        options = ("admin off", "auto_https disable_redirects", f"storage file_system {folder}")
        file = folder / "Caddyfile"
        file.write_text("\n".join(["{", *options, "}", own]))
        command = [program, "run", "--adapter", "caddyfile", "--config", file]
    with running_proxy(command, folder, port) as client:
        yield client


@pytest.fixture(params=["nginx", "caddy"])
def proxy(request, keyed, tmp_path):
    """Yield a client of a proxy with the file of docker/, in front of a service."""
    address = urlsplit(str(keyed.http.base_url)).netloc
    with shipped_proxy(request.param, address, tmp_path) as client:
        client.headers["Authorization"] = keyed.http.headers["Authorization"]
        yield client


def test_behind_a_proxy_no_answer_names_the_services_own_address(proxy, images):
    gallery = token_hex(8)
    made = proxy.post("/v1/galleries", data={"name": gallery})
    assert made.status_code == 201, made.text
    assert made.headers["location"] == f"/v1/galleries/{gallery}"
    queries = f"/v1/galleries/{gallery}/queries"
    for wrong in (f"{queries}/", f"/v1//galleries/{gallery}/queries", f"{queries}//"):
        answer = proxy.post(wrong, files=files(images[0]))
        # nginx itself merges slashes only where it chooses a location.
        assert problem(answer) == (404, "not_found")
        assert "location" not in answer.headers
        assert f"it is {queries}, and" in answer.json()["detail"]
    assert proxy.get("/docs/").headers.get("location") is None
    assert proxy.get("/docs").status_code == 200
    assert proxy.post(queries, files=files(images[0])).status_code == 200


def test_behind_a_proxy_metrics_stay_hidden_however_they_are_spelt(proxy):
    for path in ("/metrics", "/metrics/", "//metrics", "/%6Detrics", "/./metrics", "/x/../metrics"):
        answer = proxy.get(str(proxy.base_url).rstrip("/") + path)
        assert answer.status_code == 404, path
        assert "gmn_" not in answer.text


def test_proxies_give_up_idle_connections_before_the_service_does():
    (seconds,) = re.findall(r"keepalive (\d+)s", (DOCKER / "Caddyfile").read_text())
    assert int(seconds) < IDLE_SECONDS
    # nginx and HAProxy begin a connection for each request.
    assert "upstream" not in re.sub("#.*", "", (DOCKER / "nginx.conf").read_text())
    assert "option http-server-close" in (DOCKER / "haproxy.cfg").read_text()
