"""A business types the commands of its page, with the numbers of people that the page names."""

import re
import shlex
from pathlib import Path

import pytest

from model.artefact import load_artefact
from tests.training.runs import run_here
from training.datasets.drawn import draw_people

PAGE = (Path(__file__).parents[3] / "docs" / "models" / "business.md").read_text(encoding="utf-8")
TERMS = "Pictures of the site, for its own searches."
MODEL = Path("runs", "site", "model.safetensors")


def draw_site(folder, people):
    """Write crops of people under two cameras, their manifest and its terms."""
    folder.mkdir()
    rows = ["path,identity,camera"]
    drawn = draw_people(3, 1, people, cameras_per_domain=2, crops_per_camera=2)
    for number, record in enumerate(drawn.records):
        record.decode().save(folder / f"{number}.png")
        rows.append(f"{number}.png,{record.identity},{record.camera}")
    (folder / "manifest.csv").write_text("\n".join(rows))
    (folder / "TERMS.txt").write_text(f"{TERMS}\n")


def typed(artefact):
    """Return the commands of the page in their order; the artefact stands for `open`."""
    blocks = re.findall(r"^```sh figures\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("=open", f"={artefact}").splitlines()
    return [shlex.split(line)[1:] for line in lines]


@pytest.mark.parametrize("people", [60, 120])
def test_the_page_works_with_60_people_and_its_end_from_100_on(
    people, tmp_path, fast_artefact, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    draw_site(Path("mine"), people)
    start, adapt, terms, serve, reindex, embed, reference = typed(fast_artefact)
    assert [start[0], serve[0], reindex[0]] == ["serve", "serve", "reindex"]
    assert serve[-1] == str(MODEL)
    for words in (adapt, terms, embed):
        ran = run_here(*words)
        assert ran.status == 0, ran.err
    assert TERMS in load_artefact(MODEL).description.provenance.terms
    ran = run_here(*reference)
    assert "From 100 people on" in PAGE
    if people < 100:
        assert "shows 60 people whom" in ran.err
        assert "a reference needs 100" in ran.err
    else:
        assert ran.status == 0, ran.err
        assert load_artefact(MODEL).reference is not None
