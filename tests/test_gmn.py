"""The command line has help without torch, exit statuses and short errors."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
import typer

import gmn
from tests.forked import run_gmn
from tests.outside import run_command
from tests.packages import light_environment

GMN = Path(gmn.__file__)
HEAVY = ("torch", "numpy", "faiss", "fastapi", "PIL")
COMMAND_PACKAGES = ("bench", "demo", "gmn_camera", "gmn_client", "service", "training")
CLIENT_COMMANDS = ("api", "enroll", "query", "forget", "reindex")
CLIENT_COMMANDS += ("gallery", "identities", "crops", "rename", "camera", "visits", "mcp")


# Client commands come first, so that none of them finds what another command imported.
SHOW_HELP = """
import contextlib, io, json, sys
import gmn

def imported():
    return sorted({name.partition('.')[0] for name in sys.modules})

shown = {}
for name in json.loads(sys.argv[1]):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = gmn.run([*name.split(), '--help'])
    shown[name] = status, output.getvalue(), imported()
print(json.dumps(shown))
"""


@pytest.fixture(scope="module")
def helps():
    """Exit status and help of `gmn` ("") and of each command, and the modules it imports."""
    names = ["", *sorted(COMMANDS, key=lambda name: name not in CLIENT_COMMANDS)]
    finished = run_command(sys.executable, "-c", SHOW_HELP, json.dumps(names), cwd=GMN.parent)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


GROUP = typer.main.get_command(gmn.make_app())
COMMANDS = list(GROUP.commands)


def test_help_lists_every_command_and_imports_none(helps):
    status, help_text, modules = helps[""]
    assert status == 0
    assert set(modules).isdisjoint((*HEAVY, *COMMAND_PACKAGES, "httpx2", "pydantic"))
    assert all(name in help_text for name in COMMANDS)


def test_help_shows_the_commands_in_panels_and_begins_with_those_that_try_it(helps):
    _, help_text, _ = helps[""]
    lines = help_text.splitlines()
    titles = [line.strip("╭─╮ ") for line in lines if line.startswith("╭─")]
    assert titles == ["Options", *gmn.PANELS]
    begun = [line.split()[1] for line in lines if line.startswith("│ ") and line[2].isalpha()]
    assert begun == list(gmn.COMMANDS)
    assert begun[:2] == ["demo", "serve"]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_that_is_not_imported_is_its_own(name):
    not_imported = typer.main.get_command(gmn.make_app(run="")).commands[name]
    assert not_imported.help == GROUP.commands[name].help


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_shows_an_example_and_needs_no_torch(name, helps):
    status, help_text, modules = helps[name]
    assert status == 0
    assert f"Example: gmn {name}" in help_text
    # The client's commands need the client's packages only.
    assert set(modules).isdisjoint(HEAVY if name in CLIENT_COMMANDS else ("torch",))


NOBODY = ["--url", "http://127.0.0.1:9"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nonsense"], "nonsense"),
        (["enroll"], "source"),
        (["query"], "--data"),
        (["query", "a.jpg", "--data", "synthetic:7"], "--data"),
        (["query", "no-such-image.jpg"], "no-such-image.jpg"),
        (["enroll", "no-such-folder"], "no-such-folder"),
        (["enroll", "synthetic:x"], "synthetic"),
        (["enroll", "synthetic:7,identities=2", "--camera", "nowhere"], "nowhere"),
        (["enroll", "."], "holds no image"),
        (["gallery", "list", *NOBODY], "gmn serve"),
        (["keys", "create", "--scope", "everything"], "everything"),
        (["keys", "revoke", "nobody", "--data-dir", "no-such-folder"], "no-such-folder"),
        (["audit", "verify", "--data-dir", "no-such-folder"], "no-such-folder"),
        (["demo", "--artefact", "no-such-file.safetensors"], "no-such-file.safetensors"),
        (["camera", "run", "clip.mp4"], "--camera"),
        (["camera", "run", "no-such-clip.mp4", "--camera", "gate"], "no-such-clip.mp4"),
        (["camera", "run", "--config", "no-such-file.toml"], "no-such-file.toml"),
        (["camera", "run", "--config", "cameras.toml", "--fps", "5"], "cameras.toml"),
        (["camera", "try", "no-such-clip.mp4"], "no-such-clip.mp4"),
        (["camera", "try", "clip.mp4", "--zone", "0,0 1"], "--zone"),
        (["api", "similar"], "identity"),
        (["api", "similar", "0042", "--limit", "many"], "--limit"),
        (["api", "embeddings", "no-such-image.jpg"], "no-such-image.jpg"),
        (["api", "image", "0198f2c5"], "--out"),
        (["api", "model", *NOBODY], "http://127.0.0.1:9"),
    ],
    ids=lambda words: words if isinstance(words, str) else " ".join(words),
)
def test_bad_usage_and_bad_input_exit_with_2_and_one_line_that_names_it(arguments, named, tmp_path):
    finished = run_gmn(*arguments, cwd=tmp_path)
    assert finished.returncode == 2
    assert finished.stderr.startswith("gmn: ")
    assert named in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1
    assert finished.stdout == ""


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["enrol"], "enroll"),
        (["check_data"], "check-data"),
        (["keys", "creat"], "create"),
        (["api", "make-export"], "make_export"),
    ],
)
def test_a_mistyped_command_is_answered_with_the_one_that_was_meant(typed, meant):
    finished = run_gmn(*typed)
    assert finished.returncode == 2
    assert f"Did you mean '{meant}'" in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("gmn enr", "enroll"),
        ("gmn enroll --cam", "--camera"),
        ("gmn keys rev", "revoke"),
        ("gmn gallery sh", "show"),
        ("gmn crops --unn", "--unnamed"),
        ("gmn api make", "make_export"),
        ("gmn api similar --lim", "--limit"),
    ],
)
def test_the_shell_completes_commands_and_their_options(typed, offered):
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    finished = run_gmn(env=os.environ | words | {"_GMN_COMPLETE": "complete_bash"})
    assert finished.stdout.split() == [offered]


@pytest.mark.parametrize(
    "place", [["--debug", "enroll", "nowhere"], ["enroll", "nowhere", "--debug"]]
)
def test_debug_shows_the_traceback_wherever_it_stands(place):
    finished = run_gmn(*place)
    assert finished.returncode == 2
    assert "Traceback" in finished.stderr


OUTPUT = ["--out", "out"]
DRAWN = ["--data", "synthetic:7"]


TRAINER_COMMANDS = [
    ["bench", "pairs"],
    ["benchmark", "few", *DRAWN],
    ["calibrate", "bundled", *DRAWN],
    ["check-data", "synthetic:7"],
    ["embed", "bundled", *DRAWN, *OUTPUT],
    ["evaluate", "bundled", *DRAWN],
    ["export", "bundled", "--onnx", "out.onnx"],
    ["finish", "run"],
    ["import-weights", "osnet.pth", *OUTPUT],
    ["report", "run"],
    ["train", "demo", *DRAWN, *OUTPUT],
]
RUN_EACH = """
import contextlib, io, json, sys
import gmn

ran = {}
for words in json.loads(sys.argv[1]):
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        status = gmn.run(words)
    ran[' '.join(words)] = status, out.getvalue(), errors.getvalue()
print(json.dumps(ran))
"""


@pytest.fixture(scope="module")
def ran_lightly(tmp_path_factory):
    """Return the output of the trainer's commands in the light environment and the exit status."""
    place = tmp_path_factory.mktemp("light")
    environment = light_environment(place)
    environment["PYTHONPATH"] += f"{os.pathsep}{GMN.parent}"
    command = (sys.executable, "-c", RUN_EACH, json.dumps(TRAINER_COMMANDS))
    finished = run_command(*command, cwd=place, env=environment)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


@pytest.mark.promise("missing-trainer")
@pytest.mark.parametrize("name", [" ".join(words) for words in TRAINER_COMMANDS])
def test_the_light_environment_says_in_one_line_how_to_install_the_trainer(name, ran_lightly):
    status, out, errors = ran_lightly[name]
    said = re.fullmatch(
        r"gmn: the package (\w+) is not installed; pip install 'gmn-reid\[train\]' in an "
        r"environment of its own, which `make \.venv/ready` does in a clone\n",
        errors,
    )
    assert said, errors
    assert said[1] in ("matplotlib", "pandas", "scipy", "torch")
    assert (status, out) == (2, "")


def test_without_the_packages_of_the_service_a_command_names_its_extra(tmp_path):
    serve = "gmn.run(['serve', '--port', '0'])"
    program = f"import gmn, sys; sys.modules['fastapi'] = None; sys.exit({serve})"
    finished = run_command(
        sys.executable,
        "-c",
        program,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(GMN.parent)},
    )
    assert finished.stderr == (
        "gmn: the package fastapi is not installed; pipx install --force 'gmn-reid[serve]' "
        "installs gmn with it, in an environment of its own\n"
    )
    assert finished.returncode == 2


WITHOUT_LINUX = """
import contextlib, io, json, sys
sys.modules["fcntl"] = sys.modules["resource"] = None
import gmn

shown = []
for words in json.loads(sys.argv[1]):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        status = gmn.run(words)
    shown.append((status, errors.getvalue()))
print(json.dumps(shown))
"""


def ran_without_linux(commands, folder):
    """Return status and messages of commands where Python has no modules of Linux alone."""
    environment = os.environ | {"PYTHONPATH": str(GMN.parent)}
    command = (sys.executable, "-c", WITHOUT_LINUX, json.dumps(commands))
    finished = run_command(*command, cwd=folder, env=environment)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def test_on_another_system_than_linux_the_commands_of_the_service_say_so(tmp_path):
    commands = [
        ["serve", "--port", "0"],
        ["backup", "copy"],
        ["restore", "copy", "--into", "new", "--replaces", "old"],
        ["doctor"],
        ["keys", "list"],
        ["store", "verify"],
        ["audit", "verify"],
    ]
    for words, (status, errors) in zip(
        commands, ran_without_linux(commands, tmp_path), strict=True
    ):
        said = rf"gmn: gmn {words[0]} needs Linux, and Python has no module (fcntl|resource) here; "
        assert re.match(said, errors), errors
        assert len(errors.splitlines()) == 1
        assert status == 2
    assert list(tmp_path.iterdir()) == []


def test_on_another_system_than_linux_the_commands_that_call_a_service_work(tmp_path):
    (tmp_path / "a.png").write_bytes(b"an image")
    url = ["--url", "http://127.0.0.1:9"]
    commands = [
        ["query", "a.png", *url],
        ["people", "a.png", *url],
        ["enroll", "a.png", "--identity", "Ann", *url],
        ["crops", *url],
        ["gallery", "list", *url],
        ["api", "model", *url],
        ["doctor", *url],
    ]
    for status, errors in ran_without_linux(commands, tmp_path):
        assert errors.startswith("gmn: http://127.0.0.1:9: no service answers there")
        assert status == 2


def test_without_its_packages_the_camera_command_names_its_extra(tmp_path):
    environment = light_environment(tmp_path)
    environment["PYTHONPATH"] += f"{os.pathsep}{GMN.parent}"
    for words in (["try", "clip.mp4"], ["run", "clip.mp4", "--camera", "gate"]):
        program = f"import gmn, sys; sys.exit(gmn.run(['camera', *{words!r}]))"
        finished = run_command(sys.executable, "-c", program, cwd=tmp_path, env=environment)
        assert finished.stderr == (
            "gmn: gmn camera: the package av is not installed; pip install 'gmn-reid[camera]'\n"
        )
        assert finished.returncode == 2


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        ((), {"GMN_DATA_DIR": "~/data"}),
        (("--data-dir=~/data",), {}),
        (("--data-dir", "~/data"), {}),
    ],
)
def test_a_path_in_the_home_directory_needs_no_shell(tmp_path, words, variables):
    environment = os.environ | {"HOME": str(tmp_path), **variables}
    ran = run_gmn("keys", "create", "--scope", "query", *words, env=environment, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_an_unexpected_error_exits_with_1_and_one_line(monkeypatch, capsys):
    monkeypatch.setattr(gmn, "make_app", lambda _: _explode)
    assert gmn.run(["query"]) == 1
    assert capsys.readouterr().err.strip().splitlines() == [
        "gmn: failed: RuntimeError: the disk is full; --debug shows where"
    ]


def test_an_interrupted_command_exits_with_130(monkeypatch):
    monkeypatch.setattr(gmn, "make_app", lambda _: _interrupt)
    assert gmn.run(["query"]) == 130


def test_version_is_printed():
    finished = run_gmn("--version")
    assert finished.returncode == 0
    assert finished.stdout.startswith("gmn ")


def _explode(*_, **__):
    raise RuntimeError("the disk is full")


def _interrupt(*_, **__):
    raise KeyboardInterrupt
