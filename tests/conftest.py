"""Fixtures of several rooms: drawn people, and a small artefact that knows them."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import shutil
import sys
import zlib
from typing import NamedTuple

import httpcore2
import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from tests.engines import parametrize_engine, records_in
from tests.forked import shared_server
from tests.memory_folder import GIBIBYTE, memory_folder
from tests.outside import browser_program, encoded
from tests.time_limit import time_limit

# On a machine that other tests keep busy a single example may take any time. Every run tries the
# same examples, because a new one would fail beside a change that has nothing to do with it.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

# Clients ask servers of this machine alone, and each would read all certificates for 20 ms.
httpcore2.default_ssl_context = functools.cache(httpcore2.default_ssl_context)

# A run writes less than a gigabyte, beside which its processes need room.
MEMORY_BYTES = 4 * GIBIBYTE
# Upper bound on processes of tests beyond one a core: each takes up to three gigabytes.
MOST_WORKERS = 8
PEOPLE = 6
CAMERAS = ("east", "west")
SHOTS = 2


class DrawnCrop(NamedTuple):
    """One drawn person: who, under which camera, and the PNG file's bytes."""

    identity: str
    camera: str
    png: bytes


def pytest_configure(config):
    """Keep what tests write in memory, as each commit of a service waits for the disk."""
    if folder := memory_folder(MEMORY_BYTES):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(folder))
    if hasattr(config, "workerinput"):
        shared_server.join(config.workerinput["fork_server"])


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Let the workers of pytest-xdist share the process from which they fork others."""
    node.workerinput["fork_server"] = shared_server.address


def pytest_unconfigure(config):
    """Print how many tests were skipped for missing programs."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    programs = {
        "redis-server": shutil.which("redis-server"),
        "chromium-headless-shell": browser_program(),
    }
    missing = [name for name, path in programs.items() if path is None]
    if reporter and missing and (skipped := len(reporter.stats.get("skipped", []))):
        reporter.write_line(
            f"{skipped} tests were skipped; to run those that need {' and '.join(missing)}: "
            f"sudo apt-get install -y {' '.join(programs)}"
        )


def pytest_generate_tests(metafunc):
    parametrize_engine(metafunc)


def pytest_collection_modifyitems(items):
    """Begin with the tests that take longest, so that no worker runs one alone at the end."""
    items.sort(
        key=lambda item: (
            item.get_closest_marker("timeout") is None,
            not item.nodeid.startswith("tests/training/"),
        )
    )


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_timeout_set_timer(item, settings):
    """Note the time limit of a test, which leaves out what a process imports for many tests."""
    time_limit.note(item, settings)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Seed PyTorch for a test, which draws the same whichever tests its process ran before."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(zlib.crc32(item.nodeid.encode()))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run a test that is a coroutine function in an event loop of its own."""
    test = pyfuncitem.obj
    if inspect.iscoroutinefunction(test):
        arguments = pyfuncitem._fixtureinfo.argnames
        asyncio.run(test(**{name: pyfuncitem.funcargs[name] for name in arguments}))
        return True
    return None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """Return how many processes run the tests: two a core, as a test waits half of its time."""
    cores = os.cpu_count() or 1
    return max(cores, min(2 * cores, MOST_WORKERS))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Print the exit status of a worker of pytest-xdist, which its own report leaves out."""
    if error:
        status = node.gateway._io.popen.wait(10)
        reporter = node.config.pluginmanager.get_plugin("terminalreporter")
        reporter.write_line(f"{node.gateway.id} ended with status {status}, negative for a signal")


@pytest.fixture(scope="session")
def postgres_server():
    # The environment of a camera has no driver of PostgreSQL.
    from tests.postgres import postgres

    with postgres() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def chosen_engine(request):
    """Keep the records of a test in its engine; pytest groups the tests by it."""
    server = request.getfixturevalue("postgres_server") if request.param == "postgres" else None
    with records_in(server):
        yield request.param


@pytest.fixture(scope="session")
def engine(chosen_engine):
    """Return the engine of a test's records; who asks for it runs on both (tests/engines.py)."""
    return chosen_engine


@pytest.fixture(scope="session")
def drawn_crops():
    """Six people, two cameras, two crops each: 24 different PNG files, nobody real."""
    return draw_crops()


def draw_crops():
    """Draw the crops of `drawn_crops`, for programs that are no tests."""
    return [
        DrawnCrop(f"{person:04d}", camera, draw_crop(person, side, shot))
        for person in range(PEOPLE)
        for side, camera in enumerate(CAMERAS)
        for shot in range(SHOTS)
    ]


@pytest.fixture(scope="session")
def tiny_artefact(tmp_path_factory, drawn_crops):
    """Write an artefact of a 64×32 input, seeded random weights and the drawn people's statistics.

    Its M-Net is not trained: its weights are signed so that a larger difference scores lower.
    """
    path = tmp_path_factory.mktemp("artefact") / "tiny.safetensors"
    save_tiny_artefact(path, drawn_crops)
    return path


def save_tiny_artefact(path, drawn_crops, backbone="mobilenet_v2"):
    """Write the artefact of `tiny_artefact`, also for programs that are no tests."""
    # torch loads only in tests that need it: those of the client prove that they do not.
    import torch

    from model.architecture import EmbedderConfig, MetricNetworkConfig
    from model.artefact import Description
    from model.crops.decode import decode_crop
    from model.embedder import Embedder
    from model.metric_network import MetricNetwork, unit_features
    from model.preprocessing import Preprocessing
    from model.provenance import Provenance
    from training.evaluation.files import save_artefact

    preprocessing = Preprocessing(height=64, width=32)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        embedder = Embedder(EmbedderConfig(backbone=backbone))
        metric_network = MetricNetwork(embedder.config.dimension, MetricNetworkConfig(hidden=16))
    images = np.stack([preprocessing.resize(decode_crop(crop.png)) for crop in drawn_crops])
    with torch.no_grad():
        crops = preprocessing.normalise(torch.from_numpy(images))
        # A random network keeps people apart where its layers are scaled but not centred, and the
        # mean of all crops is taken off at its end.
        _scale(embedder.backbone.eval(), crops)
        before_neck, _ = embedder.before_neck(crops)
        _measure_statistics(embedder.neck, before_neck)
        features = embedder.eval()(crops)
        _sign(metric_network)
        unit = unit_features(features)
        rows, columns = torch.triu_indices(len(features), len(features), offset=1)
        _measure_statistics(metric_network, metric_network.pair_features(unit[rows], unit[columns]))
    description = Description(
        embedder=embedder.config,
        metric_network=metric_network.config,
        preprocessing=preprocessing,
        calibration=_calibration(metric_network.eval(), features, drawn_crops),
        provenance=Provenance(
            data=(),
            terms="Free of any: nobody is shown, every person is drawn.",
            recipe={},
            command="pytest",
            commit=None,
            created_at="2026-01-01T00:00:00Z",
            held_out={"fraction": 0.5, "seed": 0},
            initial_weights="none",
            metrics={},
            sources=(),
        ),
    )
    save_artefact(path, description, embedder, metric_network)


def draw_crop(person, camera, shot):
    """Draw head, coat and trousers in the person's colours, shifted and lit by the camera."""
    colours = np.random.default_rng(person).integers(30, 226, size=(2, 3))
    noise = np.random.default_rng((person, camera, shot))
    pixels = np.full((96, 48, 3), 110 + 12 * camera, dtype=np.float64)
    left = 10 + noise.integers(0, 3)
    top = 4 + noise.integers(0, 3)
    pixels[top : top + 14, left + 8 : left + 20] = (205, 165, 140)
    pixels[top + 14 : top + 50, left : left + 28] = colours[0]
    pixels[top + 50 : top + 84, left + 4 : left + 24] = colours[1]
    pixels = pixels * (1.0 - 0.06 * camera) + noise.normal(0.0, 3.0, pixels.shape)
    return encoded(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)))


def _measure_statistics(network, batch):
    import torch

    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(batch)
    network.eval()


def _scale(backbone, batch):
    """Let every BatchNorm divide by the root mean square of its input."""
    import torch

    def measure(norm, arguments):
        norm.running_var.fill_(arguments[0].square().mean().item())

    hooks = [
        module.register_forward_pre_hook(measure)
        for module in backbone.modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    ]
    backbone(batch)
    for hook in hooks:
        hook.remove()


def _sign(metric_network):
    first = metric_network.classifier[0]
    last = metric_network.classifier[3]
    first.weight.abs_()
    # Keeps most units off ReLU's floor, where all near pairs would tie.
    metric_network.classifier[1].bias.fill_(2.0)
    last.weight[0].abs_()
    last.weight[1] = -last.weight[1].abs()


def _calibration(metric_network, features, crops):
    """Read off the drawn people's own pairs, which is enough to tell them apart."""
    from model.calibration import Calibration, ScoringCalibration, TailPoint
    from model.metric_network import cosine_similarities, score_pairs

    people = np.array([crop.identity for crop in crops])
    cameras = np.array([crop.camera for crop in crops])
    across = cameras[:, None] < cameras[None, :]
    genuine = (people[:, None] == people[None, :]) & across
    impostor = (people[:, None] != people[None, :]) & across
    cosine = cosine_similarities(features, features).numpy()
    mnet = score_pairs(metric_network, features, features).numpy()
    scorings = {}
    for name, scores in (
        ("cosine", cosine),
        ("mnet", mnet),
    ):
        middle = (scores[genuine].mean() + scores[impostor].mean()) / 2
        slope = 6.0 / (scores[genuine].mean() - scores[impostor].mean())
        tail = [
            TailPoint(share=share, score=float(np.quantile(scores[impostor], 1.0 - share)))
            for share in (1.0, 0.5, 0.2, 0.1, 0.05, 0.02)
        ]
        scorings[name] = ScoringCalibration(
            slope=float(slope), intercept=float(-slope * middle), impostor_tail=tuple(tail)
        )
    return Calibration(
        scorings=scorings,
        genuine_pairs=int(genuine.sum()),
        impostor_pairs=int(impostor.sum()),
        data="drawn people of the tests",
    )


@pytest.fixture(scope="session")
def cosine_artefact(tmp_path_factory, tiny_artefact):
    """Write the tiny artefact's embedder without M-Net, which scores by cosine alone."""
    from model.artefact import load_artefact
    from training.evaluation.files import save_artefact

    whole = load_artefact(tiny_artefact)
    known = whole.description
    calibration = known.calibration.model_copy(
        update={"scorings": {"cosine": known.calibration.scorings["cosine"]}}
    )
    path = tmp_path_factory.mktemp("cosine") / "cosine.safetensors"
    description = known.model_copy(update={"metric_network": None, "calibration": calibration})
    save_artefact(path, description, whole.embedder, None)
    return path
