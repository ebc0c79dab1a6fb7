"""`gmn model-card`: the cards in docs/models agree with the shipped files."""

import pytest

import gmn
from bench.model_card import PLACE, card, permitted_uses
from model.artefact import read_description, shipped_artefacts
from model.permitted_use import BEYOND_COPYRIGHT


@pytest.mark.parametrize("name", shipped_artefacts())
def test_a_shipped_artefact_has_its_card(name):
    kept = (PLACE / f"{name.replace('@', '-')}.md").read_text(encoding="utf-8")
    assert kept == card(name), "run python -m bench.model_card"
    about = read_description(shipped_artefacts()[name])
    assert about.artefact_fingerprint in kept
    for data_set in about.provenance.data:
        assert f"| {data_set.name} | {data_set.crops:,} | {data_set.identities:,} |" in kept


def test_a_file_of_ones_own_has_a_card_and_a_damaged_one_has_none(tiny_artefact, tmp_path, capsys):
    assert gmn.run(["model-card", str(tiny_artefact)]) == 0
    assert capsys.readouterr().out.startswith(f"# Model card: {tiny_artefact.stem}\n")
    damaged = tmp_path / "damaged.safetensors"
    content = bytearray(tiny_artefact.read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(content)
    assert gmn.run(["model-card", str(damaged)]) == 2
    assert "fingerprint" in capsys.readouterr().err


def test_the_page_of_permitted_uses_is_that_of_the_shipped_files():
    kept = (PLACE / "use.md").read_text(encoding="utf-8")
    assert kept == permitted_uses(), "run python -m bench.model_card"
    assert "| [open](open.md) | by licence | by licence | by licence |" in kept
    assert BEYOND_COPYRIGHT in kept


def test_artefacts_are_listed_with_what_they_may_be_used_for(tiny_artefact, capsys):
    assert gmn.run(["artefacts"]) == 0
    *listed, last = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in listed] == list(shipped_artefacts())
    assert listed[0].startswith("bundled: research: yes; business: no; resale: no. ")
    assert last == BEYOND_COPYRIGHT
    assert gmn.run(["artefacts", str(tiny_artefact)]) == 0
    assert "business: see terms" in capsys.readouterr().out
    assert gmn.run(["artefacts", "missing.safetensors"]) == 2
    assert "missing.safetensors: no such file" in capsys.readouterr().err
