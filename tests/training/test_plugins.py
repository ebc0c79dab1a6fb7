"""Parts from outside: plug-in files by --plugin, and installed packages by entry points."""

import hashlib
import json
import sys

import pytest
import torch
from PIL import Image

from model.artefact import load_artefact
from model.backbones import BACKBONES
from model.embedder import Embedder
from model.problems import InputProblem
from tests.forked import run_gmn
from tests.training.runs import first_batch, set_options
from training import plugins
from training.augmentation import AUGMENTATIONS
from training.datasets.drawn import draw_people
from training.datasets.registry import KINDS, read_dataset
from training.losses.base import LOSSES
from training.optimiser import OPTIMISERS, SCHEDULES, learning_rate
from training.recipe import read_recipe
from training.run import prepare_run
from training.sampler import SAMPLERS
from training.step import TrainingStep

LOSS = """
import torch
from torch.nn import functional
from training.plugins import Features, LossSettings, register_loss

class Settings(LossSettings):
    scale: float = 30.0

@register_loss("directions", Settings)
class Directions(torch.nn.Module):
    def __init__(self, settings, dimension, classes):
        super().__init__()
        self.settings = settings
        self.directions = torch.nn.Parameter(torch.empty(classes, dimension).normal_(std=0.01))

    def forward(self, features):
        units = functional.normalize(features.after_neck)
        cosines = units @ functional.normalize(self.directions).T
        return functional.cross_entropy(self.settings.scale * cosines, features.labels)
"""
BACKBONE = """
from torch import nn
from training.plugins import BackboneKind, register_backbone
def build(stride):
    sizes = ((3, 8), (8, 16), (16, 24), (24, 32))
    return nn.Sequential(*(nn.Conv2d(a, b, 3, 2, 1) for a, b in sizes))
register_backbone("four_layers", BackboneKind(build, (8, 16, 24, 32), ("0", "1", "2", "3")))
"""
RECORDS = draw_people(11, 2, 8, cameras_per_domain=2, crops_per_camera=1).records
SETTINGS = (
    *("initial_weights=none", "preprocessing.height=64", "preprocessing.width=32"),
    *("sampling.identities=4", "sampling.images=2", "optimisation.warm_up_epochs=0"),
    *("log_every_steps=1", "held_out.fraction=0.3"),
)
WITH_LOSS = ("losses.identity=0", "losses.directions={scale=16}")
DATA = "synthetic:5,identities=10,domains=1,cameras=2,crops=2"

PACKAGE = '''
import re, torch
from torch import nn
from training.plugins import *

class Pairs(Choice):
    turns: int = 1

@register_sampler("in_turn", Pairs)
class InTurn(PKSampler):
    """People in the order of their names."""
    def batches(self, random):
        people = sorted(self.people) * self.settings.order.turns
        for start in range(0, len(people) - self.identities + 1, self.identities):
            yield self.crops_of(people[start:start + self.identities], random)

class Averaging(OptimiserSettings):
    lambd: float = 1e-4

@register_optimiser("asgd", Averaging)
def asgd(groups, settings):
    rate, decay = settings.learning_rate, settings.weight_decay
    return torch.optim.ASGD(groups, lr=rate, lambd=settings.optimiser.lambd, weight_decay=decay)

@register_schedule("constant")
def constant(settings, epoch):
    return 1.0

@register_augmentation("invert", Probability)
def invert(settings, pixels, drawn, size):
    chosen = (drawn[:, 0] < settings.probability).view(-1, 1, 1, 1).to(pixels.device)
    return torch.where(chosen, 255 - pixels, pixels)

@register_loss("spread")
def spread(settings, features):
    return features.before_neck.square().mean()

def add_data():
    layout = Layout(re.compile(r"(?P<identity>\\d+)-(?P<camera>\\w+)\\.png"), "like 1-a.png")
    register_dataset(DatasetKind("gate", "a folder", "Ours.", "the gate", layout=layout))

def add_backbones():
    sizes = ((3, 8), (8, 16), (16, 24), (24, 32))
    def build(stride):
        return nn.Sequential(*(nn.Conv2d(a, b, 3, 2, 1) for a, b in sizes))
    register_backbone("plain", BackboneKind(build, (8, 16, 24, 32), ("0", "1", "2", "3")))
'''
ENTRIES = """
[gmn.samplers]
in_turn = outside
[gmn.optimisers]
asgd = outside:asgd
[gmn.schedules]
constant = outside
[gmn.augmentations]
invert = outside
[gmn.losses]
spread = outside
[gmn.datasets]
gate = outside:add_data
[gmn.backbones]
plain = outside:add_backbones
"""


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """Restores the registries after each test."""
    monkeypatch.setattr(plugins, "_LOADED", {})
    tables = (LOSSES, SAMPLERS, OPTIMISERS, SCHEDULES, AUGMENTATIONS, BACKBONES, KINDS)
    before = [dict(table) for table in tables]
    yield
    for table, former in zip(tables, before, strict=True):
        table.clear()
        table.update(former)  # type: ignore[attr-defined]


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Writes a package as pip installs it."""
    (tmp_path / "outside.py").write_text(PACKAGE, encoding="utf-8")
    information = tmp_path / "outside-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "outside", raising=False)


@pytest.mark.slow
def test_a_run_with_a_loss_of_a_plugin_names_it_and_its_artefact_loads_without(tmp_path):
    file = tmp_path / "directions.py"
    run = tmp_path / "run"
    file.write_text(LOSS, encoding="utf-8")
    # After so few steps a MobileNet embeds all crops alike, and no artefact is written.
    settings = ("embedder.backbone=resnet18", "metric_fit.steps=0", "validation.every_epochs=0")
    words = set_options(*SETTINGS, *WITH_LOSS, *settings, "optimisation.epochs=1")
    command = ["train", "small-gmn", "--data", DATA, *words]
    done = run_gmn(*command, "--plugin", str(file), "--out", str(run))
    named = [{"file": "directions.py", "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}]
    assert json.loads((run / "recipe.json").read_text(encoding="utf-8"))["plugins"] == named
    assert done.returncode == 0, done.stderr
    provenance = load_artefact(run / "model.safetensors").description.provenance
    assert provenance.recipe["plugins"] == named
    without = run_gmn("finish", str(run))
    assert without.returncode == 2
    assert "was trained with --plugin directions.py (SHA-256" in without.stderr
    finished = run_gmn("finish", str(run), "--plugin", str(file))
    assert finished.returncode == 0, finished.stderr
    file.write_text(file.read_text(encoding="utf-8") + "\n# Changed.\n", encoding="utf-8")
    resumed = run_gmn(*command, "--plugin", str(file), "--out", str(run), "--resume")
    assert resumed.returncode == 2
    assert "recipe" in resumed.stderr


@pytest.mark.slow
def test_an_artefact_with_a_plugins_backbone_is_measured_and_exported_with_it(tmp_path):
    (tmp_path / "backbone.py").write_text(BACKBONE)
    plugin = ("--plugin", str(tmp_path / "backbone.py"))
    run = str(tmp_path / "run")
    settings = set_options(*SETTINGS, "embedder.backbone=four_layers", "optimisation.epochs=1")
    trained = run_gmn("train", "small-gmn", "--data", DATA, *settings, *plugin, "--out", run)
    assert trained.returncode == 0, trained.stderr
    for command in (
        ["evaluate", run, "--data", DATA],
        ["export", f"{run}/model.safetensors", "--onnx", run],
    ):
        without = run_gmn(*command)
        assert without.returncode == 2
        assert "four_layers" in without.stderr
        found = run_gmn(*command, *plugin)
        assert found.returncode == 0, found.stderr


def test_a_backbone_whose_stage_ends_are_no_parts_of_it_is_refused_by_its_name(tmp_path):
    file = tmp_path / "backbone.py"
    file.write_text(BACKBONE.replace('"3")', '"9")'))
    recipe = read_recipe("small-gmn", ["embedder.backbone=four_layers"], [file])
    with pytest.raises(InputProblem, match=r"four_layers: name parts .*'9'"):
        Embedder(recipe.embedder)(torch.zeros(1, 3, 64, 32))


@pytest.mark.usefixtures("outside")
def test_an_installed_package_adds_a_part_of_every_kind(tmp_path):
    (tmp_path / "gate").mkdir()
    for person in range(6):
        for camera in "ab":
            Image.new("RGB", (16, 32)).save(tmp_path / "gate" / f"{person}-{camera}.png")
    records = read_dataset(f"gate:{tmp_path / 'gate'}").records
    chosen = read_recipe(
        "small-gmn",
        [
            *(*SETTINGS, "embedder.backbone=plain", "losses.spread=0.5"),
            *("sampling.order=in_turn", "sampling.order.turns=2", "augmentation.invert=1"),
            *("optimisation.optimiser={name='asgd', lambd=1e-3}", "optimisation.schedule=constant"),
        ],
    )
    run = prepare_run(chosen, records, tmp_path / "run")
    assert isinstance(run.optimiser, torch.optim.ASGD)
    assert run.optimiser.defaults["lambd"] == 1e-3
    assert learning_rate(chosen.optimisation, 7.0) == chosen.optimisation.learning_rate
    assert len(run.sampler.epoch(0)) == 3
    batch = first_batch(run)
    assert batch.draws["invert"].shape == (8, 1)
    run.networks.train()
    terms = TrainingStep(run).gradients(batch, seed=1).terms
    assert set(terms) == {"identity", "triplet", "gmn", "pic", "spread"}


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["losses.spread.wheight=1"], r"did you mean losses\.spread\.weight\?"),
        (["sampling.order=in_trun"], r"no sampler in_trun; did you mean in_turn\?"),
        (["optimisation.optimiser={name='asgd', lamd=1}"], r"optimisation\.optimiser\.lambd\?"),
        (["embedder.backbone=plan"], r"no backbone plan; did you mean plain\?"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_of_a_packages(settings, message):
    with pytest.raises(InputProblem, match=message):
        read_recipe("small-gmn", settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "x = 1\nimport no_such_module\n",
            r"mine\.py: cannot be imported: ModuleNotFoundError in ",
        ),
        ("def x(:\n", r"mine\.py: cannot be imported: SyntaxError: .*line 1"),
        (
            "from training.plugins import *\nregister_loss('pic')(print)\n",
            r"ValueError in line 2: there is another loss pic already",
        ),
        (None, r"mine\.py: cannot be read"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named_with_its_error(content, message, tmp_path):
    file = tmp_path / "mine.py"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(InputProblem, match=message):
        read_recipe("small-gmn", [], [file])
