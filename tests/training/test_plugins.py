"""Parts from outside: plug-in files by --plugin, and installed packages by entry points."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from model.architecture import BACKBONES
from model.artefact import load_artefact
from model.problems import InputProblem
from tests.forked import run_gmn
from tests.training.stopping import weights_whole_and_resumed
from training import plugins
from training.augmentation import AUGMENTATIONS
from training.datasets.drawn import draw_people
from training.datasets.registry import KINDS, read_dataset
from training.losses.base import LOSSES
from training.optimiser import OPTIMISERS, SCHEDULES, learning_rate
from training.recipe import Recipe, read_recipe
from training.run import Run, prepare_run
from training.sampler import SAMPLERS
from training.step import TrainingStep

FILES = Path(__file__).parent / "plugins"
ARCFACE = FILES / "arcface.py"
MIXSTYLE = FILES / "mixstyle.py"
RECORDS = draw_people(11, 2, 8, cameras_per_domain=2, crops_per_camera=1).records
SETTINGS = (
    *("initial_weights=none", "preprocessing.height=64", "preprocessing.width=32"),
    *("sampling.identities=4", "sampling.images=2", "optimisation.warm_up_epochs=0"),
    *("log_every_steps=1", "held_out.fraction=0.3"),
)
WITH_ARCFACE = ("losses.identity=0", "losses.arcface={scale=16}")
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
def registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    monkeypatch.setattr(plugins, "_LOADED", {})
    tables = (LOSSES, SAMPLERS, OPTIMISERS, SCHEDULES, AUGMENTATIONS, BACKBONES, KINDS)
    before = [dict(table) for table in tables]
    yield
    for table, former in zip(tables, before, strict=True):
        table.clear()
        table.update(former)  # type: ignore[attr-defined]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package as pip installs it."""
    (tmp_path / "outside.py").write_text(PACKAGE, encoding="utf-8")
    information = tmp_path / "outside-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "outside", raising=False)


def recipe(*settings: str, plugin: Path = ARCFACE) -> Recipe:
    return read_recipe("small-gmn", [*SETTINGS, *settings], [plugin])


def one_step(run: Run) -> TrainingStep:
    run.networks.train()
    step = TrainingStep(run)
    step.train(run.batches.make(0, 0, run.sampler.epoch(0)[0], run.processes), seed=1)
    return step


@pytest.mark.slow
def test_a_run_with_a_loss_of_a_plugin_names_it_and_its_artefact_loads_without(
    tmp_path: Path,
) -> None:
    file = tmp_path / "arcface.py"
    run = tmp_path / "run"
    file.write_text(ARCFACE.read_text(encoding="utf-8"), encoding="utf-8")
    words = [word for setting in (*SETTINGS, *WITH_ARCFACE) for word in ("--set", setting)]
    command = ["train", "small-gmn", "--data", DATA, *words, "--set", "optimisation.epochs=1"]
    # Of so few steps a MobileNet embeds all crops alike, and no artefact is written.
    command += ["--set", "embedder.backbone=resnet18"]
    command += ["--set", "metric_fit.steps=0", "--set", "validation.every_epochs=0"]
    done = run_gmn(*command, "--plugin", str(file), "--out", str(run))
    named = [{"file": "arcface.py", "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}]
    assert json.loads((run / "recipe.json").read_text(encoding="utf-8"))["plugins"] == named
    assert done.returncode == 0, done.stderr
    provenance = load_artefact(run / "model.safetensors").description.provenance
    assert provenance.recipe["plugins"] == named
    without = run_gmn("finish", str(run))
    assert without.returncode == 2
    assert "was trained with --plugin arcface.py (SHA-256" in without.stderr
    finished = run_gmn("finish", str(run), "--plugin", str(file))
    assert finished.returncode == 0, finished.stderr
    file.write_text(file.read_text(encoding="utf-8") + "\n# Changed.\n", encoding="utf-8")
    resumed = run_gmn(*command, "--plugin", str(file), "--out", str(run), "--resume")
    assert resumed.returncode == 2
    assert "recipe" in resumed.stderr


def test_a_loss_of_a_plugin_falls_on_one_batch(tmp_path: Path) -> None:
    run = prepare_run(recipe(*WITH_ARCFACE, "precision=float32"), RECORDS, tmp_path)
    run.networks.train()
    step = TrainingStep(run)
    batch = run.batches.make(0, 0, run.sampler.epoch(0)[0], run.processes)
    losses = []
    for _ in range(8):
        losses.append(float(step.gradients(batch, seed=1).terms["arcface"]))
        step.update()
    assert losses[-1] < losses[0]


def test_a_stopped_run_with_a_loss_of_a_plugin_resumes_to_the_same_weights(tmp_path: Path) -> None:
    chosen = recipe(*WITH_ARCFACE, "optimisation.epochs=2", "checkpoint_every_steps=1")
    weights = weights_whole_and_resumed(chosen, RECORDS, tmp_path, stop_after=3)
    assert weights[0]["losses.arcface.directions"].shape == (16, 1280)
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())
    lines = (tmp_path / "whole" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [json.loads(line)["loss"] for line in lines if json.loads(line)["event"] == "step"]
    assert losses[0].keys() == {"arcface", "triplet", "gmn", "pic"}


def test_mixstyle_mixes_while_training_alone(tmp_path: Path) -> None:
    chosen = recipe("embedder.backbone=resnet18_mixstyle", plugin=MIXSTYLE)
    run = prepare_run(chosen, RECORDS, tmp_path)
    backbone = run.networks.embedder.backbone
    crops = torch.rand(8, 3, 64, 32)
    plain = BACKBONES["resnet18"].build(1)
    state = {name: tensor for name, tensor in backbone.state_dict().items() if "mix" not in name}
    plain.load_state_dict(state)
    assert torch.allclose(backbone.eval()(crops), plain.eval()(crops), atol=1e-4)
    for module in backbone.modules():
        module.train(type(module).__name__ == "MixStyle")
    torch.manual_seed(0)
    mixed = [backbone(crops) for _ in range(4)]
    assert not all(torch.allclose(maps, plain(crops), atol=1e-2) for maps in mixed)
    one_step(run)
    assert bool(backbone.get_parameter("conv1.weight").isfinite().all())


@pytest.mark.slow
def test_an_artefact_with_a_plugins_backbone_is_measured_and_exported_with_it(
    tmp_path: Path,
) -> None:
    run = str(tmp_path / "run")
    data = ["--data", DATA]
    plugin = ["--plugin", str(MIXSTYLE)]
    settings = (*SETTINGS, "embedder.backbone=resnet18_mixstyle", "optimisation.epochs=1")
    words = [word for setting in settings for word in ("--set", setting)]
    trained = run_gmn("train", "small-gmn", *data, *words, *plugin, "--out", run)
    assert trained.returncode == 0, trained.stderr
    for command in (
        ["evaluate", run, *data],
        ["export", f"{run}/model.safetensors", "--onnx", run],
    ):
        without = run_gmn(*command)
        assert without.returncode == 2
        assert "resnet18_mixstyle" in without.stderr
        found = run_gmn(*command, *plugin)
        assert found.returncode == 0, found.stderr


@pytest.mark.usefixtures("outside")
def test_an_installed_package_adds_a_part_of_every_kind(tmp_path: Path) -> None:
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
    batch = run.batches.make(0, 0, run.sampler.epoch(0)[0], run.processes)
    assert batch.draws["invert"].shape == (8, 1)
    run.networks.train()
    terms = TrainingStep(run).gradients(batch, seed=1).terms
    assert set(terms) == {"identity", "triplet", "gmn", "pic", "spread"}


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["losses.spred=1"], r"losses\.spred: .*did you mean losses\.spread\?"),
        (["losses.spread.wheight=1"], r"did you mean losses\.spread\.weight\?"),
        (["augmentation.invert.probabilty=1"], r"mean augmentation\.invert\.probability\?"),
        (["sampling.order=in_turn", "sampling.order.turn=2"], r"mean sampling\.order\.turns\?"),
        (["sampling.order=in_trun"], r"no sampler in_trun; did you mean in_turn\?"),
        (["optimisation.optimiser={name='asgd', lamd=1}"], r"optimisation\.optimiser\.lambd\?"),
        (["optimisation.schedule=constnt"], r"no schedule constnt; did you mean constant\?"),
        (["embedder.backbone=plan"], r"no backbone plan; did you mean plain\?"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_of_a_packages(
    settings: list[str], message: str
) -> None:
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
            r"ValueError in line 2: there is a loss pic already",
        ),
        (None, r"mine\.py: cannot be read"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named_with_its_error(
    content: str | None, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(InputProblem, match=message):
        read_recipe("small-gmn", [], [file])
