"""Two processes train the network that one process trains on the same batches.

They are real processes on a CPU that talk by gloo. What this cannot show: NCCL, and torch's own
SyncBatchNorm, which runs on GPUs only; the project's own stands in for it here.
"""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from model.artefact import load_artefact
from model.problems import InputProblem
from tests.forked import Forked, run_forked
from tests.outside import free_port
from tests.training.runs import FAST_BACKBONE
from training.datasets.drawn import draw_people
from training.distributed import Processes, joined_processes, synchronise_norms
from training.recipe import read_recipe
from training.run import prepare_run
from training.train import TrainingStopped, train_networks

pytestmark = pytest.mark.slow
TOGETHER = (
    "import sys; from tests.training.test_distributed import train_together\n"
    "train_together(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])"
)
TORCHRUN = "from torch.distributed.run import main; main()"
COMMON = (
    "initial_weights=none",
    "preprocessing.height=64",
    "preprocessing.width=32",
    "augmentation.resize=[70, 36]",
    "sampling.identities=4",
    "sampling.images=2",
    "optimisation.epochs=1",
    "optimisation.learning_rate=1e-4",
    "optimisation.warm_up_epochs=0",
    # Adam divides by the gradient's own size, and would blow up what differs in the last digit.
    "optimisation.optimiser=sgd",
    "losses.gmn.perturbation_from_epoch=0",
    "precision=float32",
    "log_every_steps=1",
)
MULTISCALE = (
    # In an untrained network the last digit decides which crop is the hardest.
    "losses.triplet=0",
    "embedder.multiscale.channels=8",
    "embedder.head.dimension=16",
    "augmentation.pad=2",
)
VARIANTS = {
    "gmn": ("small-gmn", ()),
    "gmn in micro-batches": ("small-gmn", ("optimisation.micro_batch=2",)),
    "gmn on people who look alike, with a frozen stage": (
        "small-gmn",
        ("losses.triplet=0", "sampling.order=hard", "optimisation.frozen_stages=1"),
    ),
    "msfl with msgr and gmn": (
        "small-msfl",
        (*MULTISCALE, "losses.msgr=1e-2", "losses.gmn=1", "losses.pic=0.1"),
    ),
}


def recipe(variant):
    name, settings = VARIANTS[variant]
    # Untrained, MobileNetV2 turns a millionth of difference in its input into other weights.
    return read_recipe(name, [*COMMON, FAST_BACKBONE, *settings])


def train_variant(variant, folder, processes):
    place = folder / variant
    place.mkdir(parents=True, exist_ok=True)
    run = start(variant, place, processes)
    train_networks(run, lambda *_: None)
    return run.networks.state_dict()


def train_together(rank, port, folder):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with joined_processes() as processes:
        for variant in VARIANTS:
            weights = train_variant(variant, Path(folder) / "two", processes)
            torch.save(weights, Path(folder) / f"{variant} {rank}.pt")
        weights = stop_and_resume(Path(folder) / "stopped", processes)
        torch.save(weights, Path(folder) / f"stopped {rank}.pt")


def stop_and_resume(folder, processes):
    """Ask one of the processes alone to stop after the first step, then resume."""

    def ask(done, *_):
        if processes.rank == 1 and done == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    (folder / "gmn").mkdir(parents=True, exist_ok=True)
    with pytest.raises(TrainingStopped, match="after step 1"):
        train_networks(start("gmn", folder / "gmn", processes), ask)
    return train_variant("gmn", folder, processes)


@pytest.fixture(scope="module")
def trained_by_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    port = str(free_port())
    both = [Forked(TOGETHER, str(rank), port, str(folder)) for rank in (0, 1)]
    assert [process.wait(300) for process in both] == [0, 0]
    return folder


def start(variant, folder, processes):
    records = draw_people(5, 1, 8, cameras_per_domain=2, crops_per_camera=1).records
    return prepare_run(recipe(variant), records, folder, processes)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "micro" not in name])
def test_two_processes_move_the_weights_as_one_does(variant, trained_by_two, tmp_path):
    run = start(variant, tmp_path, Processes())
    before = {name: tensor.clone() for name, tensor in run.networks.state_dict().items()}
    # BatchNorm as the two have it: torch's rounds otherwise, and every layer enlarges that.
    neck = run.networks.embedder.neck
    synchronise_norms(run.networks.embedder, Processes(), True, torch.device("cpu"))
    run.networks.embedder.neck = neck
    train_networks(run, lambda *_: None)
    alone = run.networks.state_dict()
    learnt = [name for name in alone if "running" not in name and "tracked" not in name]
    for rank in (0, 1):
        together = torch.load(trained_by_two / f"{variant} {rank}.pt")
        assert distance(together, alone, learnt) <= 0.01 * distance(alone, before, learnt)
        for name in alone:
            # The order of additions differs as well, which shows in a few weights only.
            if alone[name].numel() >= 64:
                moved = distance(alone, before, [name])
                assert distance(together, alone, [name]) <= 0.05 * moved + 1e-6, name


def distance(one, other, names):
    return float(sum((one[name] - other[name]).float().square().sum() for name in names)) ** 0.5


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_processes_hold_the_same_weights(variant, trained_by_two):
    first, second = (torch.load(trained_by_two / f"{variant} {rank}.pt") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_one_process_asked_to_stop_stops_all_and_they_resume_as_if_never_stopped(trained_by_two):
    for rank in (0, 1):
        whole = torch.load(trained_by_two / f"gmn {rank}.pt")
        resumed = torch.load(trained_by_two / f"stopped {rank}.pt")
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_leading_process_alone_writes(trained_by_two):
    lines = (trained_by_two / "two" / "gmn" / "log.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == list(range(len(steps)))


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(InputProblem, match=r"8 crops cannot be shared evenly by 3.*nproc-per-node"):
        start("gmn", tmp_path, Processes(0, 3))


def torchrun(out, *settings):
    command = ["--standalone", "--nproc-per-node=2", "-m", "gmn"]
    command += ["train", "small-gmn", "--out", str(out)]
    command += ["--data", "synthetic:5,identities=10,domains=2,cameras=2,crops=2"]
    return [*command, *(word for setting in settings for word in ("--set", setting))]


def test_torchrun_trains_an_artefact(tmp_path, tiny_artefact):
    settings = (*COMMON, "held_out.fraction=0.3", "optimisation.optimiser=adam")
    settings += (f"initial_weights={tiny_artefact}",)
    done = run_forked(TORCHRUN, *torchrun(tmp_path / "run", *settings))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Report:") == 1
    assert load_artefact(tmp_path / "run" / "model.safetensors")


def test_a_failing_process_ends_all_of_them(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    # Loaded by every Python process on its start: one of the two loses its data in the middle.
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    from training import batches\n"
        "    whole = batches.CropCache.crop\n"
        "    def crop(self, row):\n"
        "        if len(self._crops) > 12:\n"
        "            raise OSError('the disk is gone')\n"
        "        return whole(self, row)\n"
        "    batches.CropCache.crop = crop\n"
    )
    command = torchrun(tmp_path / "run", *COMMON, "optimisation.epochs=50")
    done = run_forked(TORCHRUN, *command, env=environment)
    assert done.returncode != 0
    assert "the disk is gone" in done.stderr
    assert not (tmp_path / "run" / "model.safetensors").exists()
