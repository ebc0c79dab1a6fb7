"""A real service on a port of its own, as the client's user has it."""

import json
import zipfile
from itertools import count

import pytest

from gmn_client import Client, Image
from tests import forked
from tests.service.conftest import serving

NUMBERS = count()


@pytest.fixture(scope="session")
def import_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("mounted")


@pytest.fixture(scope="session")
def service_url(tmp_path_factory, tiny_artefact, import_dir):
    data_dir = tmp_path_factory.mktemp("service") / "data"
    with serving(tiny_artefact, data_dir, import_dir=import_dir) as url:
        yield url


@pytest.fixture
def gallery(service_url):
    name = f"test-{next(NUMBERS)}"
    with Client(service_url) as client:
        client.create_gallery(name)
    return name


@pytest.fixture
def client(service_url, gallery):
    with Client(service_url, gallery=gallery) as talking:
        yield talking


@pytest.fixture
def filled(client, drawn_crops):
    labels = (("7", "east"), ("10", "west"), (None, "east"))
    client.enroll(
        Image(crop.png, identity=identity, camera=camera)
        for crop, (identity, camera) in zip(drawn_crops, labels, strict=False)
    )
    return client


def run_gmn(url, gallery, *arguments, **options):
    return forked.run_gmn(*arguments, "--url", url, "--gallery", gallery, **options)


@pytest.fixture
def gmn(service_url, gallery):
    """Return a function that runs `gmn` on the test's gallery and checks its status.

    It returns the answer of --json, or else the output; of a command that fails, its errors.
    """

    def run(*arguments, status=0, gallery=gallery, **options):
        ran = run_gmn(service_url, gallery, *map(str, arguments), **options)
        assert ran.returncode == status, ran.stdout + ran.stderr
        if "--json" in arguments and ran.stdout:
            return json.loads(ran.stdout)
        return (ran.stderr or ran.stdout) if status else ran.stdout

    return run


@pytest.fixture
def folder(tmp_path, drawn_crops):
    """Drawn people as files, one of them cut off, and a file that is no image."""
    images = tmp_path / "images"
    images.mkdir()
    for number, crop in enumerate(drawn_crops):
        (images / f"{number:02d}.png").write_bytes(crop.png)
    (images / "broken.png").write_bytes(drawn_crops[0].png[:200])
    (images / "notes.txt").write_text("not an image")
    return images


@pytest.fixture
def manifest(folder, drawn_crops):
    """Return the same people with their labels, without the broken file."""
    path = folder / "people.csv"
    rows = [
        f"{number:02d}.png,{crop.identity},{crop.camera}" for number, crop in enumerate(drawn_crops)
    ]
    path.write_text("\n".join(["path,identity,camera", *rows]))
    return path


@pytest.fixture
def people_folder(tmp_path, drawn_crops):
    """Return the same people in a folder with one sub-folder for each."""
    for number, crop in enumerate(drawn_crops):
        person = tmp_path / "people" / crop.identity
        person.mkdir(parents=True, exist_ok=True)
        (person / f"{number:02d}.png").write_bytes(crop.png)
    return tmp_path / "people"


@pytest.fixture
def archive(folder, tmp_path):
    """Return the folder as a zip, with what another system leaves in one."""
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for file in folder.iterdir():
            packed.write(file, f"people/{file.name}")
        packed.writestr("__MACOSX/._00.png", b"left by another system")
    return path
