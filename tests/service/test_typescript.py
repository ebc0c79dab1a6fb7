"""The types that openapi-typescript makes hold in TypeScript, against a running service."""

import shutil
from pathlib import Path

import pytest

from tests.outside import run_command

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
TOOLS = ["openapi-typescript@7.13.0", "typescript@5.9.3", "@types/node@20.19.43"]
COMPILE = ["npx", "tsc", "--strict", "--target", "es2022", "--module", "nodenext"]
WRONG = """import type { components } from "./gmn.js";
type Schemas = components["schemas"];
// @ts-expect-error: a number is no text
export const query: Schemas["QueryForm"] = { top_k: "3" };
// @ts-expect-error: a name is for each image
export const enroll: Schemas["EnrollForm"] = { identity: "Ann" };
// @ts-expect-error: a path is no file
export const file: Schemas["QueryForm"] = { images: ["photo.jpg"] };
// @ts-expect-error: there is no such order
export const mode: Schemas["QueryForm"] = { mode: "each" };
export const right: Schemas["QueryForm"][] = [{}, { images: [new File([], "photo.jpg")] }];
export const problem: Schemas["Problem"] =
  { type: "urn:gmn:problem:dark", title: "", status: 422, detail: "", errors: [] };
"""


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    """Return a folder with the compiler; skips where there is no npm, or it reaches no registry."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("typescript")
    (folder / "package.json").write_text('{"type": "module"}')
    installed = _run(folder, "npm", "install", "--no-audit", "--no-fund", *TOOLS)
    if installed.returncode:
        pytest.skip(f"npm cannot install the compiler: {installed.stderr[-300:]}")
    return folder


def _run(folder, *command):
    return run_command(*command, cwd=folder)


@pytest.mark.slow
def test_the_program_of_the_guide_compiles_and_runs(served, gallery, tools, images):
    url = str(served.http.base_url).rstrip("/")
    for name in ("types.mjs", "example.ts"):
        text = (EXAMPLES / name).read_text()
        (tools / name).write_text(text.replace("galleries/default", f"galleries/{gallery}"))
    (tools / "wrong.ts").write_text(WRONG)
    (tools / "photo.jpg").write_bytes(images[0])
    for command in (
        ["node", "types.mjs", url],
        [*COMPILE, "example.ts", "wrong.ts"],
        ["node", "example.js", url],
    ):
        ran = _run(tools, *command)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    rank, identity, probability = ran.stdout.splitlines()[0].split()
    assert (rank, identity) == ("1", "Ann")
    assert 0 < float(probability) <= 1
    # A refused request throws the sentence of the problem.
    (tools / "photo.jpg").write_text("notes")
    refused = _run(tools, "node", "example.js", url)
    assert refused.returncode == 1
    assert "urn:gmn:problem:unusable_images" in refused.stderr
