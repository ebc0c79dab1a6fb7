"""The package for TypeScript: it is built, packed, installed elsewhere, and calls the service."""

import http.server
import json
import re
import shutil
import threading
from pathlib import Path

import pytest

from bench.release import pack_typescript
from tests.outside import free_port, run_command, zip_of_crops

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "clients" / "typescript"
PROGRAMS = Path(__file__).parent / "typescript"
TOOLS = ["typescript@5.9.3", "@types/node@20.19.43"]
STRICT = ["npx", "tsc", "--strict", "--target", "es2022"]
FOR_NODE = [*STRICT, "--module", "nodenext", "--lib", "es2022", "--types", "node"]
FOR_THE_WEB = [
    *(*STRICT, "--module", "esnext", "--moduleResolution", "bundler", "--noEmit"),
    *("--lib", "es2022,dom,dom.iterable", "--typeRoots", "none"),
]
README = (PACKAGE / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```ts\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
DECLARED = re.compile(r'@Request\(\s*"(\w+)", "([^"]+)"((?:, \w+=[^,)]+)*)')


def listed_calls(name):
    """Return the calls in a set of the TypeScript client, with unnamed parts of their paths."""
    source = (PACKAGE / "src" / "calls.ts").read_text(encoding="utf-8")
    (listed,) = re.findall(rf"const {name} = new Set\(\[(.*?)\]\)", source, re.DOTALL)
    return {re.sub(r"{\w+}", "{}", call) for call in re.findall(r'"(\w+ [^"]+)"', listed)}


def declared_calls(option):
    """Return the calls of the Python client that are declared with an option."""
    source = (ROOT / "gmn_client" / "methods.py").read_text(encoding="utf-8")
    return {
        re.sub(r"{\w+}", "{}", f"{method} /v1/{path}")
        for method, path, options in DECLARED.findall(source)
        if f"{option}=True" in options
    }


def test_both_clients_repeat_the_same_calls_and_wait_long_for_the_same():
    # Written as calls of their own in Python, which are no declarations.
    several_galleries = {"POST /v1/queries", "POST /v1/visits"}
    # Repeated for its Idempotency-Key.
    enrollment = {"POST /v1/galleries/{}/crops"}
    repeated = declared_calls("repeatable") | several_galleries
    always = {call for call in repeated if call.startswith(("GET ", "PUT "))}
    assert listed_calls("REPEATABLE") == repeated - always - enrollment
    assert listed_calls("LONG") == declared_calls("long")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return a fresh folder with the packed client; skips if npm is missing or has no registry."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    asked = run_command("npm", "view", TOOLS[0], "version")
    if asked.returncode:
        pytest.skip(f"npm reaches no registry: {asked.stderr[-300:]}")
    tarball = pack_typescript(tmp_path_factory.mktemp("package"))
    folder = tmp_path_factory.mktemp("program")
    (folder / "package.json").write_text('{"type": "module"}')
    _install(folder, str(tarball), *TOOLS)
    shutil.copytree(PROGRAMS, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def compiled(installed):
    """Return the folder with the programs of these tests as JavaScript."""
    _run(installed, *FOR_NODE, "wrong.ts", "calls.ts", "repeats.ts")
    return installed


def _install(folder, *packages):
    _run(folder, "npm", "install", "--no-audit", "--no-fund", *packages)


def _run(folder, *command):
    ran = run_command(*command, cwd=folder)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_the_package_holds_what_was_built_and_its_readme(installed):
    package = installed / "node_modules" / "gmn-client"
    files = {path.name for path in package.rglob("*") if path.is_file()}
    sources = {path.stem for path in (PACKAGE / "src").glob("*.ts")} | {"openapi"}
    built = {f"{stem}{suffix}" for stem in sources for suffix in (".js", ".js.map", ".d.ts")}
    assert files == built | {"package.json", "README.md", "LICENSE"}
    # A debugger shows the source, which the package has nowhere else.
    mapped = json.loads((package / "dist" / "client.js.map").read_text())
    assert mapped["sourcesContent"] == [(PACKAGE / "src" / "client.ts").read_text()]
    readme = (package / "README.md").read_text()
    assert not re.search(r"\]\((?!https://)", readme)
    assert not list(installed.glob("node_modules/openapi-typescript"))


@pytest.mark.slow
def test_wrong_uses_do_not_compile_for_node_or_for_the_web(compiled):
    _run(compiled, *FOR_THE_WEB, "wrong.ts")


@pytest.mark.slow
def test_a_program_compiles_where_exports_are_not_read(installed):
    (installed / "older.ts").write_text(
        'import { createClient } from "gmn-client";\nvoid createClient().query({ images: [] });\n'
    )
    older = ("--module", "commonjs", "--moduleResolution", "node10", "--target", "es2022")
    _run(installed, "npx", "tsc", "--strict", "--noEmit", *older, "older.ts")


@pytest.mark.slow
def test_the_programs_of_the_guide_compile_where_left_out_is_not_undefined(installed):
    names = []
    for number, text in enumerate(EXAMPLES):
        names.append(f"exact_{number}.ts")
        (installed / names[-1]).write_text(text)
    assert "key: process.env." in "".join(EXAMPLES)
    _run(installed, *FOR_NODE, "--noEmit", "--exactOptionalPropertyTypes", *names, "undefined.ts")


@pytest.mark.slow
def test_the_programs_of_the_guide_run(served, gallery, installed, images):
    url = str(served.http.base_url).rstrip("/")
    (installed / "photo.jpg").write_bytes(images[0])
    for name, text in zip(("first", "second"), EXAMPLES, strict=True):
        text = re.sub(r"createClient\(.*\)", f'createClient({{ url, gallery: "{gallery}" }})', text)
        text = text.replace('"default"', f'"{gallery}"')
        (installed / f"{name}.ts").write_text(f'const url = "{url}";\n{text}')
    _run(installed, *FOR_NODE, "first.ts", "second.ts")
    verdict, result = _run(installed, "node", "first.js").splitlines()
    crops, crop = _run(installed, "node", "second.js").splitlines()
    assert verdict in ("match", "uncertain", "no_match")
    assert result.startswith("1 Ann 0.") or result == "1 Ann 1"
    assert crops == "1"
    assert crop.endswith(" Ann")
    (installed / "photo.jpg").write_text("notes")
    refused = run_command("node", "first.js", cwd=installed)
    assert refused.returncode == 1
    assert refused.stderr.startswith("unusable_images 422 ")


@pytest.mark.slow
def test_a_program_enrolls_searches_lists_and_gets_typed_problems(
    served, gallery, compiled, images, drawn_crops
):
    url = str(served.http.base_url).rstrip("/")
    for number, image in enumerate((images[0], images[4])):
        (compiled / f"{number}.png").write_bytes(image)
    (compiled / "crops.zip").write_bytes(zip_of_crops(drawn_crops[8:10]))
    closed = f"http://127.0.0.1:{free_port()}"
    shown = json.loads(_run(compiled, "node", "calls.js", url, gallery, closed))
    assert shown["enrolled"] == ["stored", "stored"]
    assert shown["replayed"] == [False, True]
    assert shown["verdict"] in ("match", "uncertain", "no_match")
    assert shown["found"] == ["Ann"]
    assert set(shown["separate"]) <= {"match", "uncertain", "no_match"}
    assert shown["by_vector"] == ["Ann"]
    assert shown["galleries"]
    assert "Ann" in shown["visits"]
    assert shown["visits_in_galleries"]
    assert shown["pair"]
    assert shown["sighted"] == 1
    assert shown["listed"] == [
        ["Ann", None, {"shift": "night"}],
        ["Bob", None, None],
        ["Cid", "gate", {"row": 1}],
    ]
    assert shown["galleries_have_crops"]
    assert shown["job"] == "done"
    assert shown["unknown_gallery"][:2] == ["unknown_gallery", 404]
    assert shown["conflict"][:2] == ["gallery_conflict", 409]
    assert shown["raw"] == [None, 404]
    assert "can stand in no address" in shown["segment"]
    assert shown["aborted"].startswith("AbortError")
    assert shown["text"]
    assert "give parseAs" in shown["no_json"]
    assert "ECONNREFUSED" in shown["unreachable"]
    assert "nowhere is no address" in shown["bad_url"]
    assert "localhost:8000 is no address" in shown["no_scheme"]
    assert "***@127.0.0.1:9 is no address" in shown["bad_user"]
    assert "hunter2" not in shown["bad_user"]
    assert "two words" not in shown["bad_key"]


def problem(code, status, **headers):
    document = {"type": f"urn:gmn:problem:{code}", "title": "", "status": status, "detail": "No."}
    return status, document, headers


ENROLLED = (201, {"gallery_version": 1, "results": []}, {})
# The answers of the stand-in by the name of a gallery, and the last one again; None is a lost one.
ANSWERS = {
    "busy": [problem("queue_full", 503, **{"Retry-After": "7"}), ENROLLED],
    "crowded": [problem("too_many_requests", 429, **{"Retry-After": "3600"})],
    "lost": [None, ENROLLED],
    "uncertain": [problem("record_unavailable", 503)],
    "elsewhere": [(200, "<html>", {})],
    "foreign": [(502, "<html>", {})],
}


class StandIn(http.server.BaseHTTPRequestHandler):
    """A service that answers by the name of the gallery, and nothing for `silent`."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        created = re.search(rb'name="name"\r\n\r\n(\w+)', body)
        *_, gallery, called = self.path.split("/")
        name = created[1].decode() if created else gallery
        asked = self.server.asked.setdefault(f"{name} {called}", [])
        keys = [self.headers[key] for key in ("Authorization", "Idempotency-Key")]
        files = re.findall(rb'filename="(.+?)"\r\n.*?\r\n\r\n(.+?)\r\n', body)
        asked.append((keys, [f"{name.decode()}: {content.decode()}" for name, content in files]))
        if name == "silent":
            self.server.ended.wait(60)
        answers = ANSWERS.get(name, [None])
        self._answer(answers[min(len(asked), len(answers)) - 1])

    def _answer(self, answer):
        if answer is None:
            self.close_connection = True
            return
        status, document, headers = answer
        content = (document if isinstance(document, str) else json.dumps(document)).encode()
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Keep the output of the tests free of a line for each request."""


@pytest.fixture
def stand_in():
    """Yield a stand-in of the service, with what it was asked."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.asked = {}
    server.ended = threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.ended.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_requests_are_repeated_as_the_python_client_repeats_them(compiled, stand_in):
    url = f"http://127.0.0.1:{stand_in.server_port}"
    shown = json.loads(_run(compiled, "node", "repeats.js", url))
    # One pause, as long as Retry-After asks; the second request is the same one.
    assert shown["busy"] == {"outcome": "answered", "pauses": [7]}
    first, second = stand_in.asked["busy crops"]
    assert first == second
    (key, idempotency_key), files = first
    assert key == "Bearer secret"
    assert idempotency_key
    assert files == ["image: picture", "a.jpg: picture", "b.jpg: picture"]
    # The last problem is thrown; its Retry-After is longer than the longest pause.
    refused = ["too_many_requests", 429, 3600]
    assert shown["crowded"] == {"outcome": refused, "pauses": [8, 8]}
    assert shown["lost"] == {"outcome": "answered", "pauses": [0.25]}
    # A gallery may have been created: neither request is repeated.
    assert shown["lost_write"] == {"outcome": "unreachable", "pauses": []}
    assert shown["uncertain"]["outcome"] == ["record_unavailable", 503, None]
    assert len(stand_in.asked["uncertain galleries"]) == 1
    # A service that answered before may be restarting, and has not received the request.
    assert shown["before_restart"] == {"outcome": "answered", "pauses": []}
    assert shown["restart"] == {"outcome": "answered", "pauses": [0.25]}
    assert shown["elsewhere"] == {"outcome": "unreachable", "pauses": []}
    assert shown["foreign"] == {"outcome": ["", 502, None], "pauses": []}
    assert shown["late"]["outcome"] == "unreachable"
    assert len(stand_in.asked["silent queries"]) <= 2
    assert shown["aborted"]["outcome"] == "Error: no longer wanted"
