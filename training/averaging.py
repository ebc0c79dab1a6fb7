"""An exponential moving average of what a run trains, for an artefact that is steadier than it."""

from __future__ import annotations

import torch

from training.objective import TrainedNetworks


class WeightAverage:
    """The average of weights and of BatchNorm statistics over the steps, newer ones weighing more.

    The decay grows to its value as (1 + n) / (10 + n) over the steps n, so that the weights of the
    beginning are soon forgotten (as TensorFlow's ExponentialMovingAverage does).
    """

    def __init__(self, networks: TrainedNetworks, decay: float) -> None:
        self._decay = decay
        self.averages = {
            name: tensor.detach().clone()
            for name, tensor in networks.state_dict().items()
            if tensor.is_floating_point()
        }

    @torch.no_grad()
    def update(self, networks: TrainedNetworks, step: int) -> None:
        """Takes in the weights after a step, counted from 0 over the whole run."""
        current = networks.state_dict()
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.averages.values()), [current[name] for name in self.averages], 1.0 - decay
        )

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averages, by the names of the networks' tensors."""
        return self.averages

    def load_state_dict(self, averages: dict[str, torch.Tensor]) -> None:
        """Continues from a checkpoint's averages."""
        for name, tensor in self.averages.items():
            tensor.copy_(averages[name])

    def copy_to(self, networks: TrainedNetworks) -> None:
        """Gives the averages to the networks themselves."""
        networks.load_state_dict(self.averages, strict=False)
