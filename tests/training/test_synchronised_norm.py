"""BatchNorm over two real processes: what one process with the whole batch computes."""

import torch
from torch import nn

from tests.forked import Forked
from training.distributed import Processes, synchronise_norms
from training.losses.msgr import gradient_regulariser

SHARE = (
    "import sys; from tests.training.test_synchronised_norm import train_a_share\n"
    "train_a_share(int(sys.argv[1]), sys.argv[2])"
)
LABELS = torch.tensor([0, 1, 1, 0])


def network():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Softplus(), nn.Flatten(), nn.Linear(4 * 4 * 2, 2)
    )


def regularised_step(module, crops, labels):
    """One backward of a loss with MSGR on the first convolution's output."""
    stage = module[0](crops)
    loss = nn.functional.cross_entropy(module[1:](stage), labels)
    (loss + 0.1 * gradient_regulariser(loss, [stage])).backward()


def train_a_share(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    module = network()
    synchronise_norms(module, Processes(rank, 2), True, torch.device("cpu"))
    crops = torch.load(f"{folder}/crops.pt")
    mine = slice(2 * rank, 2 * rank + 2)
    regularised_step(module, crops[mine], LABELS[mine])
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    torch.save({"gradients": gradients, "state": module.state_dict()}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_regularise_as_one_with_the_whole_batch(tmp_path):
    torch.manual_seed(4)
    crops = torch.rand(4, 3, 6, 4)
    torch.save(crops, tmp_path / "crops.pt")
    shares = [Forked(SHARE, str(rank), str(tmp_path)) for rank in (0, 1)]
    assert [share.wait(timeout=120) for share in shares] == [0, 0]
    whole = network()
    regularised_step(whole, crops, LABELS)
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name, parameter in whole.named_parameters():
        averaged = (one["gradients"][name] + other["gradients"][name]) / 2
        assert torch.allclose(averaged, parameter.grad, rtol=1e-4, atol=1e-6), name
    for name, value in whole.state_dict().items():
        if "running" in name:
            assert torch.allclose(one["state"][name], value, atol=1e-6), name
