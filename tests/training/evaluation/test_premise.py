import numpy as np
import pytest

from model.artefact import load_artefact
from training.datasets.record import CropRecord
from training.evaluation.premise import measure_premise, sample_identity_pairs


def people(domain, number, tint, cameras=2):
    """Drawn crops of flat colours, two a camera; a domain has its tint."""
    records = []
    for person in range(number):
        colour = np.random.default_rng(person).integers(0, 120, 3) + tint
        for shot in range(2 * cameras):
            pixels = np.full((64, 32, 3), colour + 4 * shot, dtype=np.uint8)
            pixels[: 8 + person % 40] = 255 - colour
            name = f"{domain}/{person}/{shot}"
            camera = str(shot % cameras)
            records.append(CropRecord(name, domain, str(person), camera, domain, pixels=pixels))
    return records


def test_domains_have_as_many_couples_and_nobody_is_in_two():
    records = people("a", 30, 0) + people("b", 24, 90) + people("few", 6, 50)
    records += people("one camera", 30, 20, cameras=1)
    couples = sample_identity_pairs(records)
    assert {domain: len(pairs) for domain, pairs in couples.items()} == {"a": 12, "b": 12}
    for pairs in couples.values():
        seen = [record.person for couple in pairs for record in couple]
        assert len(set(seen)) == 24
        for first, elsewhere, second, other in pairs:
            assert first.person == elsewhere.person != second.person == other.person
            assert first.camera != elsewhere.camera
    assert sample_identity_pairs(records) == couples


def test_both_spaces_are_measured_through_the_same_crops(fast_artefact):
    artefact = load_artefact(fast_artefact)
    couples = sample_identity_pairs(people("a", 24, 0) + people("b", 24, 110))
    premise = measure_premise(artefact, couples)
    assert (premise.people, premise.points, premise.pair_feature) == (24, 48, "square")
    (gap,) = premise.gaps
    assert gap.domains == ("a", "b")
    for space in (gap.instance, gap.pair):
        assert 0.0 <= space.classifier.low <= space.classifier.mean <= 1.0
        assert space.mmd_by_chance > 0.0
    assert gap.classifier_difference.mean == pytest.approx(
        gap.pair.classifier.mean - gap.instance.classifier.mean
    )
    instance, pair = premise.projections
    assert {domain: len(points) for domain, points in instance.domains.items()} == {
        "a": 48,
        "b": 48,
    }
    assert instance.genuine == []
    assert sum(pair.genuine) == 24
