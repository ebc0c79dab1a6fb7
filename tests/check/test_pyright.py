"""Types of the client as pyright reads them, which many editors show while somebody writes."""

import json
import shutil
import sys

import pytest

from bench.packages import ROOT
from tests.outside import run_command

PROGRAM = """
from gmn_client import AsyncClient, Client, Image
from gmn_client.models import Enrollment, QueryAnswer

with Client("http://127.0.0.1:8000") as client:
    client.enroll([Image("ann.jpg", identity="Ann", camera="entrance")])
    answer: QueryAnswer = client.query("photo.jpg", top_k=5)
    print(answer.verdict, [(result.identity, result.probability) for result in answer.results])


async def enroll(client: AsyncClient) -> Enrollment:
    return await client.enroll(["photo.jpg"])
"""
WRONG = """
from gmn_client import Client

with Client("http://127.0.0.1:8000") as client:
    client.query("photo.jpg", top_k="five")
    print(client.query("photo.jpg").verdicts)
"""


@pytest.fixture(scope="module")
def pyright(tmp_path_factory):
    """Return a function that checks files for a version of Python; it skips without npm."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("pyright")
    install = ("npm", "install", "--no-audit", "--no-fund", "pyright@1.1.414")
    installed = run_command(*install, cwd=folder)
    if installed.returncode:
        pytest.skip(f"npm cannot install pyright: {installed.stderr[-300:]}")

    def check(version, *files):
        options = ("--outputjson", "--pythonversion", version, "--pythonpath", sys.executable)
        # The client is found in the folder of the command.
        command = folder / "node_modules" / ".bin" / "pyright"
        checked = run_command(command, *options, *files, cwd=ROOT)
        found = json.loads(checked.stdout)
        assert found["summary"]["filesAnalyzed"]
        return [
            (one["range"]["start"]["line"], one["rule"])
            for one in found["generalDiagnostics"]
            if one["severity"] == "error"
        ]

    return check


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_pyright_finds_nothing_in_the_client(pyright, version):
    assert pyright(version, ROOT / "gmn_client") == []


@pytest.mark.slow
def test_pyright_knows_what_calls_take_and_answer(pyright, tmp_path):
    right = tmp_path / "right.py"
    right.write_text(PROGRAM)
    assert pyright("3.11", right) == []
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG)
    assert pyright("3.11", wrong) == [
        (4, "reportArgumentType"),
        (5, "reportAttributeAccessIssue"),
    ]
