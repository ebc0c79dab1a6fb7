"""The commands of docs/postgres.md as they stand: two machines, a proxy, a restore, a pooler.

Names of hosts stand for this computer, and folders of the page for folders of the test.
"""

import contextlib
import itertools
import os
import re
import shlex
import signal
import ssl
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from tests.outside import certificate_in, free_port, installed
from tests.postgres import PostgresServer
from tests.service.conftest import bearer, crop_ids, files
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "postgres.md").read_text(encoding="utf-8")
SERVER = Path(os.environ.get("POSTGRES_HOME", "/usr/lib/postgresql/15")) / "bin"
PASSWORD = "word of the page"
GETS = 1000
KILLED_AFTER = 300
START_SECONDS = 300.0

pytestmark = [pytest.mark.slow, pytest.mark.promise("postgres-page")]


def _section(title):
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def _typed(section):
    """Return the prompts and commands of a section's blocks, in their order."""
    blocks = re.findall(r"^```text\n(.*?)^```", _section(section), re.MULTILINE | re.DOTALL)
    return re.findall(r"^(\w+)\$ (.*)$", "".join(blocks), re.MULTILINE)


class Place:
    """The page's hosts: the server, two machines and the proxy.

    Attributes:
        folders: of each prompt, for its environment and for what the page has under `/srv`.
        running: the services, and the proxy, by their prompts.
    """

    def __init__(self, folder, artefact):
        self._folder = folder
        self._artefact = artefact
        self.running = {}
        self._programs = folder / "programs"
        self._programs.mkdir()
        gmn = self._programs / "gmn"
        gmn.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/gmn.py "$@"\n')
        gmn.chmod(0o755)
        self.folders = {name: folder / name for name in ("db", "one", "two", "proxy")}
        for path in self.folders.values():
            path.mkdir()
            path.chmod(0o777)
        self.ports = {name: free_port() for name in ("db", "one", "two", "proxy", "pooler")}
        self._begin_server()
        for name in ("one", "two"):
            (self.folders[name] / "gmn-password").write_text(PASSWORD)
            (self.folders[name] / "db.crt").write_bytes((self._data / "server.crt").read_bytes())

    def _begin_server(self):
        self._data = self.folders["db"] / "data"
        installed("openssl")
        user = PostgresServer.user_of_the_server()
        os.chown(self.folders["db"], user.get("user", -1), user.get("group", -1))
        options = ("--username=postgres", "--auth-local=trust", "--auth-host=reject", "--no-sync")
        subprocess.run(
            [SERVER / "initdb", "--pgdata", self._data, "--encoding=UTF8", *options],
            check=True,
            capture_output=True,
            **user,
        )
        for file, name in zip(
            certificate_in(self.folders["db"], "localhost"), ("key", "crt"), strict=True
        ):
            os.chown(file, user.get("user", -1), user.get("group", -1))
            file.rename(self._data / f"server.{name}")
        (line,) = re.findall(r"`(hostssl [^`]*)`", PAGE)
        line = line.replace("192.0.2.0/24", "127.0.0.1/32")
        rules = self._data / "pg_hba.conf"
        # The first rule that fits counts, and those of initdb refuse the machines.
        local = re.sub(r"^host .*reject\n", "", rules.read_text(), flags=re.MULTILINE)
        rules.write_text(f"{local}{line}\n{line.replace('gmn gmn', 'gmn gmn_service')}\n")
        settings = ("ssl=on", "listen_addresses=localhost", f"port={self.ports['db']}")
        settings += ("max_connections=300", f"unix_socket_directories={self.folders['db']}")
        options = [f"-c{setting}" for setting in settings]
        self._start("db", SERVER / "postgres", "-D", self._data, *options, **user)
        ready = [SERVER / "pg_isready", "-h", self.folders["db"], "-p", str(self.ports["db"])]
        eventually(lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0)

    def type(self, prompt, command):
        """Type a command of the page, and return its output; `gmn serve` goes on by itself."""
        if command.startswith("pip install"):
            # The environment of the tests has both extras.
            return ""
        command = self._as_here(prompt, command)
        if command == "gmn serve":
            self.serve(prompt)
            return ""
        if command == "systemctl restart haproxy":
            self._begin_proxy()
            return ""
        return self._shell(prompt, command)

    def _as_here(self, prompt, command):
        here = self.folders[prompt]
        for written, meant in (
            ("@db/", f"@localhost:{self.ports['db']}/"),
            ("/srv/", f"{here}/"),
            ("/etc/haproxy/", f"{here}/"),
            ("https://reid.example.org/", f"https://localhost:{self.ports['proxy']}/"),
            ("curl ", f"curl --silent --show-error --fail --cacert {here}/fullchain.pem "),
        ):
            command = command.replace(written, meant)
        return command

    def _environment(self, prompt):
        own = {
            "PATH": f"{self._programs}:{SERVER}:/usr/sbin:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HOME": str(self.folders[prompt]),
        }
        if prompt == "db":
            own |= {"PGHOST": str(self.folders["db"]), "PGPORT": str(self.ports["db"])}
            own |= {"PGUSER": "postgres", "LC_ALL": "C"}
        kept = self.folders[prompt] / "environment"
        if kept.exists():
            pairs = (line.partition("=") for line in kept.read_text().split("\0") if line)
            return {name: value for name, _, value in pairs}
        own["GMN_PORT"] = str(self.ports.get(prompt, 0))
        return own | {"GMN_ARTEFACT": str(self._artefact), "GMN_DEVICE": "cpu"}

    def set(self, prompt, name, value):
        self._shell(prompt, f"export {name}={shlex.quote(value)}")

    def _shell(self, prompt, command):
        kept = self.folders[prompt] / "environment"
        ran = subprocess.run(
            ["bash", "-c", f"set -e\n{command}\nenv -0 > {kept}"],
            env=self._environment(prompt),
            cwd=ROOT,
            # A program without a terminal reads a password from here, once for its repetition.
            input=f"{PASSWORD}\n{PASSWORD}\n",
            start_new_session=True,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"
        return ran.stdout

    def _start(self, prompt, *command, **options):
        with (self.folders[prompt] / "log").open("ab") as log:
            self.running[prompt] = subprocess.Popen(command, stdout=log, stderr=log, **options)

    def serve(self, prompt):
        environment = self._environment(prompt) | {"GMN_RUNTIME": "openvino"}
        self._start(prompt, sys.executable, ROOT / "gmn.py", "serve", env=environment)
        with httpx2.Client() as http:
            address = f"http://127.0.0.1:{self.ports[prompt]}/readyz"
            eventually(lambda: self._is_ready(prompt, http, address), START_SECONDS)

    def _is_ready(self, prompt, http, address):
        log = self.folders[prompt] / "log"
        assert self.running[prompt].poll() is None, log.read_text()[-3000:]
        return http.get(address).status_code == 200

    def _begin_proxy(self):
        file = self.folders["proxy"] / "haproxy.cfg"
        self._start("proxy", installed("haproxy"), "-db", "-f", file)

    def write_addresses(self):
        """Write into the proxy's file what the page asks for."""
        file = self.folders["proxy"] / "haproxy.cfg"
        text = file.read_text()
        for name, written in (("one", "192.0.2.11:8000"), ("two", "192.0.2.12:8000")):
            assert written in text
            text = text.replace(written, f"127.0.0.1:{self.ports[name]}")
        text = text.replace("bind :443", f"bind 127.0.0.1:{self.ports['proxy']}")
        certificate = self.folders["proxy"] / "gmn.pem"
        file.write_text(text.replace("/etc/haproxy/gmn.pem", str(certificate)))

    def stop(self, prompt, number=signal.SIGTERM):
        process = self.running.pop(prompt)
        process.send_signal(number)
        process.wait(60)


@pytest.fixture
def place(tmp_path_factory, tiny_artefact):
    if not (SERVER / "postgres").exists():
        pytest.skip(f"{SERVER} has no PostgreSQL")
    for program in ("haproxy", "curl", "openssl"):
        installed(program)
    folder = tmp_path_factory.mktemp("page")
    # The server runs as another user.
    for path in (folder, *folder.parents):
        if path.is_relative_to(tempfile.gettempdir()):
            path.chmod(path.stat().st_mode | 0o111)
    opened = Place(folder, tiny_artefact)
    try:
        yield opened
    finally:
        for name, process in reversed(list(opened.running.items())):
            # PostgreSQL ends its other processes by SIGINT.
            process.send_signal(signal.SIGINT if name == "db" else signal.SIGKILL)
            process.wait(60)


def _type_set_up(place):
    """Type the commands of the set-up, and return the key."""
    commands = _typed("Set up two machines and a proxy")
    of_the_first = [command for prompt, command in commands if prompt == "one"]
    key = ""
    for prompt, command in commands:
        if prompt == "proxy" and command.startswith("cp "):
            # Do the same on every machine, but for the key.
            for repeated in of_the_first:
                if "keys create" not in repeated:
                    place.type("two", repeated)
            place.type(prompt, command)
            key_file, certificate = certificate_in(place.folders["proxy"], "localhost")
            (place.folders["proxy"] / "gmn.pem").write_bytes(
                certificate.read_bytes() + key_file.read_bytes()
            )
            place.write_addresses()
        elif prompt == "proxy" and command.startswith("curl "):
            place.set("proxy", "GMN_API_KEY", key)
            eventually(lambda: _is_proxied(place))
            assert '"results"' in place.type(prompt, command)
        elif "gmn_service" not in command:
            shown = place.type(prompt, command)
            if "keys create" in command:
                (key,) = (word for word in shown.split() if word.startswith("gmn_"))
    return key


def _is_proxied(place):
    with _proxied(place, "none") as http:
        return http.get("/readyz").status_code == 200


def _trust(file):
    return ssl.create_default_context(cafile=file)


def _proxied(place, key):
    return httpx2.Client(
        base_url=f"https://localhost:{place.ports['proxy']}",
        verify=_trust(str(place.folders["proxy"] / "fullchain.pem")),
        headers=bearer(key),
        timeout=60.0,
    )


def _enroll(http, image, **fields):
    answer = http.post("/v1/galleries/default/crops", files=files(image), data=fields)
    assert answer.status_code == 201, answer.text
    return crop_ids(answer)[0]


def _listed(http):
    answer = http.get("/v1/galleries/default/crops")
    assert answer.status_code == 200, answer.text
    return {crop["crop_id"] for crop in answer.json()["results"]}


def _get_while_a_machine_dies(place, http):
    """Send requests by several threads, kill a machine meanwhile, and return the other answers."""
    counter = itertools.count(1)

    def ask(_):
        if next(counter) == KILLED_AFTER:
            place.stop("one", signal.SIGKILL)
        return http.get("/v1/galleries/default/crops").status_code

    with ThreadPoolExecutor(8) as threads:
        return [status for status in threads.map(ask, range(GETS)) if status != 200]


@pytest.mark.timeout(1200)
def test_two_machines_are_set_up_lose_one_and_are_restored_by_the_pages_commands(place, images):
    key = _type_set_up(place)
    with _proxied(place, key) as http:
        assert http.get("/v1/galleries", headers={"Authorization": ""}).status_code == 401
        kept = _enroll(http, images[0], identity="Ann")
        erased = _enroll(http, images[1], identity="Bob")
        assert _get_while_a_machine_dies(place, http) == []
        place.serve("one")

        # The role with fewer rights serves what the owner has created.
        for prompt, command in _typed("Set up two machines and a proxy"):
            if "gmn_service" in command:
                place.type(prompt, command)
        place.stop("two")
        former = place._environment("two")["GMN_DATABASE_URL"]
        place.set("two", "GMN_DATABASE_URL", former.replace("//gmn@", "//gmn_service@"))
        place.serve("two")
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{place.ports['two']}", headers=bearer(key), timeout=60.0
        ) as of_the_second:
            eventually(lambda: kept in _listed(of_the_second))
            another = _enroll(of_the_second, images[2], identity="Cid")
            gone = f"/v1/galleries/default/crops/{another}"
            assert of_the_second.delete(gone).status_code in (200, 204)
        place.stop("two")
        place.set("two", "GMN_DATABASE_URL", former)
        place.serve("two")

        commands = _typed("Backup and restore")
        (dump, *restore, vacuum) = commands
        place.type(*dump)
        answer = http.delete(f"/v1/galleries/default/crops/{erased}")
        assert answer.status_code in (200, 204)
        later = _enroll(http, images[3], identity="Dan")
        assert _listed(http) == {kept, later}
        # Each machine notes the deletion of another one within a second.
        logs = [place.folders[name] / "gmn" / "deletions.log" for name in ("one", "two")]
        eventually(lambda: all(erased in log.read_text() for log in logs))
        for name in ("one", "two"):
            place.stop(name)
        for prompt, command in restore:
            place.type(prompt, command)
        for name in ("one", "two"):
            place.serve(name)

        def is_restored():
            with contextlib.suppress(AssertionError):
                return _listed(http) == {kept}

        eventually(is_restored)
        place.type(*vacuum)
        assert _enroll(http, images[4], identity="Eve") in _listed(http)
        (question,) = re.findall(r"`(SELECT [^`]*)`", _section("What PostgreSQL must be set to"))
        named = place.type("db", f'psql gmn --command "{question}"')
        assert re.search(r"127\.0\.0\.1 .*gmn-", named)


def test_the_pages_settings_of_pgbouncer_suffice(place):
    from service.postgres.connection import examine_server

    program = installed("pgbouncer")
    (settings,) = re.findall(r"^```text\n(\[databases\].*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for command in [command for prompt, command in _typed("Set up two machines and a proxy")][:2]:
        place.type("db", command)
    folder = place.folders["proxy"]
    (folder / "users").write_text(f'"gmn" "{PASSWORD}"\n')
    here = f"gmn = host=localhost port={place.ports['db']}"
    own = f"listen_addr = 127.0.0.1\nlisten_port = {place.ports['pooler']}\nunix_socket_dir =\n"
    own += f"auth_type = plain\nauth_file = {folder}/users\nserver_tls_sslmode = require\n"
    file = folder / "pgbouncer.ini"
    file.write_text(settings.replace("gmn = host=db", here) + own)
    place._start("proxy", program, file, **PostgresServer.user_of_the_server())
    url = f"postgresql://gmn:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{place.ports['pooler']}/gmn"

    def examined():
        try:
            return [text for _, text in examine_server(url)]
        except ValueError as problem:
            return [str(problem)]

    eventually(lambda: "pools by session" in examined()[0], 20.0)
