"""A new default artefact: galleries of the one before answer, and are gone over to the new one."""

import contextlib

import pytest
import typer
from typer.testing import CliRunner

from gmn_client.commands.browse import reindex
from model.artefact import load_artefact, resolve_artefact
from model.permitted_use import BEYOND_COPYRIGHT, terms_of_use
from tests.service.conftest import START, Served

pytestmark = pytest.mark.slow

FIRST = resolve_artefact("small")
GALLERIES = ("bare", "lobby", "yard")


class Installed:
    """The program with a folder of shipped artefacts of its own, on one record."""

    def __init__(self, folder):
        self.folder = folder
        self.starts = 0
        self.shipped = folder / "shipped"
        self.shipped.mkdir()
        for name in ("bundled", "former"):
            self.ship(name, FIRST)

    def file(self, name):
        return self.shipped / f"{name}.safetensors"

    def ship(self, name, artefact):
        self.file(name).write_bytes(artefact.read_bytes())

    @contextlib.contextmanager
    def serving(self, **settings):
        self.starts += 1
        program = (
            "import model.artefact; from pathlib import Path; "
            f"model.artefact.SHIPPED = Path({str(self.shipped)!r}); {START}"
        )
        settings = {"data_dir": str(self.folder / "data"), **settings}
        served = Served(self.folder / f"log.{self.starts}", program, **settings)
        try:
            yield served
        finally:
            # Where a test stopped it before, nothing is left to kill.
            if served.process.poll() is None:
                served.kill()


def lines(served, number):
    """Return what a start tells of its artefacts, beside the entries of its log."""
    told = [line for line in served.log.read_text().splitlines() if not line.startswith("{")]
    assert len(told) >= number, told
    return told[:number]


def states(served):
    found = served.results("/v1/galleries")
    return {gallery["name"]: gallery["state"] for gallery in found if gallery["name"] in GALLERIES}


def best(served, gallery, crop):
    answer = served.query(gallery, crop.png, top_k=1).json()
    return answer["model"], answer["results"][0]["identity"]


def test_galleries_of_the_artefact_before_answer_until_each_is_reindexed(
    tmp_path, tiny_artefact, drawn_crops
):
    installed = Installed(tmp_path)
    first, new = (load_artefact(path).description for path in (FIRST, tiny_artefact))
    old = first.artefact_fingerprint
    now = new.artefact_fingerprint
    crop = drawn_crops[5]
    with installed.serving(keep_images="none") as served:
        assert lines(served, 1) == [f"Artefact bundled: {terms_of_use(first.provenance)}"]
        model = served.read("/v1/model")
        assert model["provenance"]["terms"] == terms_of_use(first.provenance)
        assert model["permitted_use"]["business"] == "no"
        assert model["permitted_use"]["beyond_copyright"] == BEYOND_COPYRIGHT
        sources = model["provenance"]["sources"]
        assert [source["role"] for source in sources].count("teacher") == 1
        served.fill(served.create("bare"), drawn_crops[:8])
    installed.ship("open", tiny_artefact)
    with installed.serving() as served:
        assert lines(served, 2)[1].endswith("gmn serve --artefact open")
        for gallery in ("lobby", "yard"):
            served.fill(served.create(gallery), drawn_crops)
    installed.file("open").unlink()
    installed.ship("bundled", tiny_artefact)

    with installed.serving() as served:
        url = str(served.http.base_url)
        assert lines(served, 3) == [
            f"Artefact bundled: {new.provenance.terms}",
            "Filled by former, which answers until they are reindexed: bare, lobby, yard",
            f"To go over to bundled: gmn reindex --all --wait --url {url}",
        ]
        assert states(served) == dict.fromkeys(GALLERIES, "previous_model")
        assert {best(served, gallery, crop) for gallery in GALLERIES} == {(old, crop.identity)}
        model = served.read("/v1/model")
        assert (model["artefact"], model["previous"]) == ("bundled", ["former"])
        job = served.ended_job(served.http.post("/v1/galleries/lobby/reindex").json())
        assert job["state"] == "done"

    with installed.serving() as served:
        url = str(served.http.base_url)
        assert lines(served, 2)[1].endswith("until they are reindexed: bare, yard")
        assert best(served, "lobby", crop) == (now, crop.identity)
        assert best(served, "yard", crop) == (old, crop.identity)
        reindexed = _reindex_all(url)
        # The gallery without pictures has failed, and answers as before.
        assert reindexed.exit_code == 1
        assert "24 of 24 crops" in reindexed.output
        assert best(served, "yard", crop) == (now, crop.identity)
        assert best(served, "bare", crop) == (old, crop.identity)
        served.http.delete("/v1/galleries/bare")

    with installed.serving() as served:
        assert served.read("/v1/model")["previous"] == []
        assert states(served) == {"lobby": "ready", "yard": "ready"}
        done = _reindex_all(str(served.http.base_url))
        assert (done.exit_code, "already" in done.output) == (0, True)
        assert served.stop() == 0


def test_a_gallery_that_no_shipped_artefact_filled_is_named(
    start, tmp_path, drawn_crops, other_artefact
):
    served = start(data_dir=tmp_path / "data")
    served.fill(served.create("yard"), drawn_crops[:2])
    served.kill()
    served = start(data_dir=tmp_path / "data", artefact=other_artefact, accept_unserved=True)
    said = lines(served, 3)
    assert said[1].endswith("or until --previous names it: yard")
    assert said[2].startswith("To go over to other.safetensors: gmn reindex --all --wait")


def _reindex_all(url):
    app = typer.Typer()
    app.command()(reindex)
    return CliRunner().invoke(app, ["--all", "--wait", "--url", url])
