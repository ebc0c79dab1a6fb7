"""The example lines of every `--help`, run as they stand on drawn people."""

import os
import re
import shlex
import shutil

import pytest
import typer

import gmn
from gmn_client import Client, Image
from tests.drawn_photos import photo_of
from tests.forked import GMN, run_forked
from tests.service.conftest import serving

EXAMPLE = re.compile(r"^Example: (gmn .+)$", re.MULTILINE)
SHOTS = {"east": ("001", "002"), "west": ("003", "004")}
KEY = "gmn keys create --scope query"
# These have tests of their own: with cameras, an export, a Milvus, PostgreSQL, earlier calls, and
# with what reads their files.
ON_OTHERS = (
    "gmn camera ",
    "gmn enroll export.zip ",
    "gmn index ",
    "gmn store copy ",
    "gmn rename ",
    "gmn gallery ",
    "gmn export ",
)
# These take minutes or do not end; that their options exist is checked instead.
PARSED_ONLY = (
    "gmn artefact add-reference ",
    "gmn artefact extrapolate ",
    "gmn serve ",
    "gmn demo",
    "gmn bench ",
    "gmn benchmark ",
    "gmn evaluate runs/all ",
    *ON_OTHERS,
)
# These work on the data directory of a service that has stopped.
AFTERWARDS = ("gmn backup ", "gmn restore ", "gmn keys ", "gmn audit ", "gmn store ")


def examples():
    """Yield every example line, once, in the order of `gmn --help`."""
    app = gmn.make_app()
    found = [app.registered_callback.callback.__doc__ or ""]
    for command in typer.main.get_command(app).commands.values():
        found.append(command.help or "")
        found += [subcommand.help or "" for subcommand in getattr(command, "commands", {}).values()]
    yield from dict.fromkeys(
        line.strip()
        for text in found
        for line in EXAMPLE.findall("\n".join(part.strip() for part in text.splitlines()))
    )


def parse(line):
    """Raise an error if a command or an option of the line does not exist."""
    program, *words = shlex.split(line)
    assert program == "gmn"
    group = typer.main.get_command(gmn.make_app())
    context = group.make_context("gmn", words)
    name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("line", list(examples()))
def test_an_examples_command_and_options_exist(line):
    parse(line)


@pytest.fixture
def place(tmp_path, drawn_crops):
    """Return a working folder with the files of the examples, and their `/data` below it."""
    campus = tmp_path / "data" / "cuhk01" / "campus"
    market = tmp_path / "data" / "Market-1501-v15.09.15"
    for folder in (campus, *(market / name for name in ("query", "bounding_box_test"))):
        folder.mkdir(parents=True)
    rows = ["path,identity,camera"]
    for crop in drawn_crops:
        shots = SHOTS[crop.camera]
        number = len(list(campus.glob(f"{int(crop.identity) + 1:04d}{shots[0]}*")))
        name = f"{int(crop.identity) + 1:04d}{shots[number]}.png"
        (campus / name).write_bytes(crop.png)
        rows.append(f"cuhk01/campus/{name},{crop.identity},{crop.camera}")
        camera = 1 if crop.camera == "east" else 2
        split = "query" if camera == 1 and number == 0 else "bounding_box_test"
        person = int(crop.identity) + 1
        (market / split / f"{person:04d}_c{camera}s1_00000{number}_00.jpg").write_bytes(crop.png)
    shutil.copytree(market / "bounding_box_test", market / "bounding_box_train")
    (tmp_path / "data" / "people.csv").write_text("\n".join(rows))
    for name in ("photo.jpg", "suspect.jpg", "front.jpg", "side.jpg"):
        (tmp_path / name).write_bytes(drawn_crops[0].png)
    (tmp_path / "street.jpg").write_bytes(photo_of(2))
    (tmp_path / "home" / "ann" / "photos").mkdir(parents=True)
    return tmp_path


# Over twenty programs start one after the other, and one of them trains.
@pytest.mark.timeout(1200)
@pytest.mark.slow
def test_every_example_runs_on_drawn_people(place, tiny_artefact, drawn_crops, monkeypatch):
    # Measuring what computes the features fastest takes longer than most examples.
    monkeypatch.setenv("GMN_RUNTIME", "torch")
    monkeypatch.setenv("GMN_ARTEFACT", str(tiny_artefact))
    lines = [line for line in examples() if not line.startswith(PARSED_ONLY)]
    # Examples before it in the help look at what it writes.
    lines.sort(key=lambda line: not line.startswith("gmn train "))
    online = [line for line in lines if not line.startswith(AFTERWARDS)]
    names = {f"/{name}/": f"{place}/{name}/" for name in ("data", "home")}
    names |= {"/mnt/": f"{place}/", "bundled": str(tiny_artefact)}
    with serving(tiny_artefact, place / "gmn-data") as url, Client(url) as client:
        names |= {"http://127.0.0.1:8000": url}
        client.create_gallery("entrance")
        client.enroll(
            [Image(crop.png, "x.png", "0042") for crop in drawn_crops], gallery="entrance"
        )
        for line in online:
            run(line, place, url, names)
    (key_id,) = re.findall(r"\b[0-9a-f]{12}\b", run(KEY, place, url, names))
    (written,) = re.findall(r"^gmn keys revoke (\w+)$", "\n".join(lines), re.MULTILINE)
    names[written] = key_id
    for line in lines:
        if line.startswith(AFTERWARDS):
            run(line, place, url, names)


def run(line, place, url, names):
    """Run the steps that an example needs, then the example, and return its output."""
    for written, real in names.items():
        line = line.replace(written, real)
    if line.startswith("gmn reindex"):
        # Its gallery needs none, and the command says so.
        return ""
    if line.startswith("gmn store accept-earlier-state"):
        # Only a record in PostgreSQL needs it, and the command says so.
        return ""
    if line.startswith("gmn train"):
        # The test of the training page shows that it learns.
        line = line.replace("identities=60,domains=1,crops=6", "identities=20,domains=1,crops=2")
        start = f"initial_weights={names['bundled']}"
        line += f" --set {start} --set optimisation.epochs=1 --set optimisation.warm_up_epochs=0"
    if line.startswith("gmn finish"):
        shutil.copytree(place / "runs" / "first", place / "runs" / "mine")
    if line.startswith("gmn artefacts runs/site/"):
        shutil.copytree(place / "runs" / "first", place / "runs" / "site")
    program = GMN
    if line.startswith("gmn import-weights"):
        # Fewer drawn people than the thresholds of published weights need.
        few = "synthetic:12,identities=12,domains=1,crops=2"
        program = f"from training import import_weights as to; to.CALIBRATION = {few!r}; {GMN}"
        from tests.training.test_import_weights import save_torchreid_weights

        save_torchreid_weights(place / "osnet_x0_25_msmt17.pth")
    if line.startswith("gmn report"):
        for name in ("baseline", "full"):
            shutil.copytree(place / "runs" / "first", place / "runs" / name)
    if line.startswith("gmn restore"):
        (written,) = (place / "backups").iterdir()
        line = line.replace("20260301T020000Z", written.name)
    if line.startswith("gmn score"):
        for name in ("a.npz", "b.npz"):
            shutil.copy(place / "features.npz", place / name)
    environment = os.environ | {"GMN_URL": url}
    ran = run_forked(program, *shlex.split(line)[1:], cwd=place, env=environment, timeout=600)
    assert ran.returncode == 0, f"{line}\n{ran.stdout[-1500:]}\n{ran.stderr[-1500:]}"
    return ran.stdout
