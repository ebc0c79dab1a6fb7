"""`gmn model-card`: the cards in docs/models agree with the shipped files."""

import pytest

import gmn
from bench.model_card import PLACE, card
from model.artefact import read_description, shipped_artefacts


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
