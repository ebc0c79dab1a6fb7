"""A training step: its parts add up to the whole, in any order and size."""

import pytest
import torch
from torch import nn

from model.artefact import load_artefact
from model.backbones import BACKBONES, BackboneKind
from model.problems import InputProblem
from tests.training.runs import first_batch
from training.datasets.drawn import draw_people
from training.recipe import read_recipe
from training.run import prepare_run
from training.step import TrainingStep, autocast_type

DATA = draw_people(11, 2, 8, cameras_per_domain=2, crops_per_camera=1)
SETTINGS = (
    "initial_weights=none",
    "preprocessing.height=64",
    "preprocessing.width=32",
    "sampling.identities=4",
    "sampling.images=2",
    "optimisation.epochs=1",
    "optimisation.warm_up_epochs=0",
    "log_every_steps=1",
)


def recipe(name="small-gmn", *settings):
    return read_recipe(name, [*SETTINGS, *settings])


def gradients(run):
    """Compute one batch, with BatchNorm's statistics fixed: those of a micro-batch differ."""
    run.networks.train()
    run.networks.embedder.backbone.eval()
    run.networks.metric_network.perturbing = True
    batch = first_batch(run)
    TrainingStep(run).gradients(batch, seed=1, with_norms=True)
    return {n: p.grad for n, p in run.networks.named_parameters() if p.grad is not None}


def test_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path):
    settings = ("precision=float32", "embedder.backbone=resnet18")
    whole = prepare_run(recipe("small-gmn", *settings), DATA.records, tmp_path)
    parts = prepare_run(
        recipe("small-gmn", *settings, "optimisation.micro_batch=3"), DATA.records, tmp_path
    )
    expected = gradients(whole)
    found = gradients(parts)
    assert list(found) == list(expected)
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-7, name


def test_micro_batches_carry_on_the_gradient_of_the_features_that_the_loss_had(
    tmp_path, monkeypatch
):
    """Dropout draws the same masks when a part is embedded again."""

    def build(_stride):
        sizes = ((3, 8), (8, 16), (16, 32), (32, 64))
        return nn.Sequential(
            *(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.Dropout(0.3)) for a, b in sizes)
        )

    kind = BackboneKind(build, (8, 16, 32, 64), ("0", "1", "2", "3"))
    monkeypatch.setitem(BACKBONES, "dropping", kind)
    settings = ("embedder.backbone=dropping", "optimisation.micro_batch=4")
    run = prepare_run(recipe("small-gmn", *settings), DATA.records, tmp_path)
    run.networks.train()
    found = []
    last = run.networks.embedder.backbone[-1]
    last.register_forward_hook(lambda _, __, maps: found.append(maps.detach().clone()))
    batch = first_batch(run)
    TrainingStep(run).gradients(batch, seed=1)
    first, second, first_again, second_again = found
    assert torch.equal(first, first_again)
    assert torch.equal(second, second_again)
    assert not torch.equal(first != 0, second != 0)


def test_micro_batches_change_each_statistic_once(tmp_path):
    run = prepare_run(recipe("small-gmn", "optimisation.micro_batch=4"), DATA.records, tmp_path)
    run.networks.train()
    batch = first_batch(run)
    TrainingStep(run).gradients(batch, seed=1)
    seen = {
        int(tensor)
        for name, tensor in run.networks.named_buffers()
        if name.endswith("num_batches_tracked") and "backbone" in name
    }
    # The batch of 8 in two parts.
    assert seen == {2}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_msgr_trains_with_gmn_in_every_format(precision, tmp_path):
    chosen = recipe(
        "small-msfl",
        "embedder.multiscale.channels=8",
        "losses.gmn=1",
        "losses.pic=0.1",
        "losses.msgr=0.01",
        f"precision={precision}",
    )
    run = prepare_run(chosen, DATA.records, tmp_path)
    run.networks.train()
    batch = first_batch(run)
    terms, norms, _ = TrainingStep(run).gradients(batch, seed=1, with_norms=True)
    assert set(terms) == set(norms) == {"identity", "triplet", "gmn", "pic", "msgr"}
    assert all(bool(term.isfinite()) for term in terms.values())
    stem = run.networks.embedder.backbone.get_parameter("conv1.weight").grad
    assert stem is not None
    assert float(stem.norm()) > 0


def test_msgr_with_micro_batches_is_refused_with_the_remedy():
    with pytest.raises(InputProblem, match=r"graph of the whole batch.*micro_batch=none"):
        recipe("msfl-msgr-r50", "optimisation.micro_batch=16")


@pytest.fixture
def anchored(tiny_artefact, tmp_path):
    """A recipe of an anchor that starts from the tiny artefact, in parts of a batch where asked."""

    def prepare(*settings):
        path = tmp_path / "mine.toml"
        path.write_text("[sampling]\nidentities = 4\nimages = 2\n")
        start = f"initial_weights={tiny_artefact}"
        chosen = read_recipe(str(path), [start, "losses.anchor=2", "precision=float32", *settings])
        run = prepare_run(chosen, DATA.records, tmp_path)
        run.networks.eval()
        return run

    return prepare


def test_the_anchor_is_the_cosine_to_the_embedding_before_training(anchored, tiny_artefact):
    run = anchored()
    terms, _, _ = TrainingStep(run).gradients(first_batch(run), seed=1)
    assert float(terms["anchor"]) == pytest.approx(0.0, abs=1e-5)
    before = load_artefact(tiny_artefact).embedder
    for settings in ((), ("optimisation.micro_batch=3",)):
        run = anchored(*settings)
        with torch.no_grad():
            run.networks.embedder.neck.weight.mul_(torch.linspace(0.2, 2.0, 1280))
        batch = first_batch(run)
        terms, norms, _ = TrainingStep(run).gradients(batch, seed=1, with_norms=True)
        images = run.batches.images(batch)
        with torch.no_grad():
            cosines = torch.cosine_similarity(run.networks.embedder(images), before(images))
        expected = 2 * float((1 - cosines).mean())
        assert float(terms["anchor"]) == pytest.approx(expected, rel=1e-3)
        assert norms["anchor"] > 0


def test_an_anchor_without_an_embedder_to_start_from_is_refused(tmp_path):
    with pytest.raises(InputProblem, match=r"losses\.anchor.*none has none.*losses\.anchor=0"):
        prepare_run(recipe("small-gmn", "losses.anchor=1"), DATA.records, tmp_path)


@pytest.mark.parametrize(("width", "dtype"), [(32, torch.float32), (64, torch.bfloat16)])
def test_a_cpu_computes_narrow_crops_in_float32(width, dtype):
    """Hold that PyTorch computes no bfloat16 convolution to a width of one pixel."""
    asked = recipe("small-msfl", "precision=bfloat16", f"preprocessing.width={width}")
    assert autocast_type(asked, torch.device("cpu")) is dtype


def test_micro_batches_leave_no_crop_alone(tmp_path):
    # 8 crops would be split into 7 and 1, and the head's BatchNorm needs two.
    small = ("embedder.multiscale.channels=8", "embedder.head.dimension=16")
    run = prepare_run(
        recipe("small-msfl", *small, "optimisation.micro_batch=7"), DATA.records, tmp_path
    )
    run.networks.train()
    batch = first_batch(run)
    terms = TrainingStep(run).gradients(batch, seed=1).terms
    assert all(bool(term.isfinite()) for term in terms.values())
