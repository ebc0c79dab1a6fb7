"""The training step: compute the gradients of a batch, and update the weights by them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil, isfinite
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from model.precision import choose_dtype
from model.problems import InputProblem
from training.batches import Batch
from training.checkpoint import Position
from training.losses.base import LOSSES, Features
from training.recipe import Recipe
from training.run import Run
from training.run_folder import LOG_NAME, RunLog

Terms = dict[str, Tensor]
Norms = dict[str, float]
# Outputs of the backbone's stages, for losses that read them.
Maps = tuple[Tensor, ...]
NAMED_CROPS = 4
# The scaler halves its scale whenever a gradient overflows. If it falls below this value, the
# gradients of every batch overflow, at any scale.
SMALLEST_SCALE = 1e-6
# Width of crops up to which a CPU computes in float32.
FLOAT32_WIDTH = 32


class Gradients(NamedTuple):
    """The loss terms of a batch whose gradients were computed.

    Attributes:
        terms: the weighted loss terms, detached, on the device.
        norms: the norm of each term's gradient at the pooled feature; empty unless asked for.
        finite: whether the loss and the gradients are finite (in float16 the loss alone), as a
            scalar on the device: to read it is to wait for a GPU.
    """

    terms: Terms
    norms: Norms
    finite: Tensor


class TrainingStep:
    """One step of a run: computes a batch's gradients, and updates the weights.

    Attributes:
        scaler: scales the loss; disabled unless the recipe computes in float16.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._stages = run.recipe.losses.stages
        self._dtype = autocast_type(run.recipe, run.device)
        self._losses = {
            name: settings
            for name, settings in run.recipe.losses.on.items()
            if run.teachers or LOSSES[name].needs != "teachers"
        }
        self.scaler = GradScaler(run.device.type, enabled=self._dtype is torch.float16)

    def gradients(
        self,
        batch: Batch,
        seed: int,
        with_norms: bool = False,
    ) -> Gradients:
        """Compute the gradients of a batch into the parameters' `grad`.

        Args:
            batch: the batch; this process embeds its share of it.
            seed: the seed of random numbers in the networks, such as those of dropout.
            with_norms: also measure the gradient of each loss term, which takes time.
        """
        run = self._run
        run.optimiser.zero_grad(set_to_none=True)
        images = run.batches.images(batch)
        micro_batch = run.recipe.optimisation.micro_batch
        if micro_batch is not None and micro_batch < len(images):
            terms, norms = self._in_parts(images, batch, seed, with_norms, micro_batch)
        else:
            torch.manual_seed(seed)
            before_neck, stages = self._embed(images)
            features = self._features(before_neck, stages, batch, [images])
            terms = features.terms
            norms = self._backward(features, with_norms)
        gradients = gradients_of(run.networks.parameters())
        run.processes.average(gradients)

        values = torch.stack(list(terms.values())).detach()
        checked = values.sum()
        # Scaled gradients may overflow: the scaler then skips the update and lowers its scale.
        if not self.scaler.is_enabled():
            checked = checked + torch.stack(torch._foreach_norm(gradients)).sum()
        detached = dict(zip(terms, values, strict=True))
        return Gradients(detached, norms, checked.isfinite())

    def update(self) -> None:
        self.scaler.step(self._run.optimiser)
        self.scaler.update()

    def train(self, batch: Batch, seed: int) -> None:
        """Compute gradients and update the weights, for a measurement of the time of a step."""
        self.gradients(batch, seed)
        self.update()

    def _in_parts(
        self,
        images: Tensor,
        batch: Batch,
        seed: int,
        with_norms: bool,
        micro_batch: int,
    ) -> tuple[Terms, Norms]:
        """Compute a batch's gradients in the memory of a micro-batch (GradCache, Gao et al., 2021).

        First, all parts are embedded without a graph, and the loss of the whole batch is
        differentiated with respect to the features. Then each part is embedded again, with a graph,
        through which the gradients of its features reach the weights.
        """
        # The parts have about one size, because BatchNorm cannot train on a single left-over crop.
        most = max(1, len(images) // 2)
        count = min(ceil(len(images) / micro_batch), most)
        parts = torch.tensor_split(images, count)
        before_neck = self._features_without_graph(parts, seed).requires_grad_()
        torch.manual_seed(seed)
        features = self._features(before_neck, (), batch, parts)
        norms = self._backward(features, with_norms)

        gradient = before_neck.grad
        if gradient is None:
            gradient = torch.zeros_like(before_neck)
        gradients = torch.tensor_split(gradient, count)
        for number, (part, part_gradient) in enumerate(zip(parts, gradients, strict=True), 1):
            torch.manual_seed(seed + number)
            part_features, _ = self._embed(part)
            torch.autograd.backward(part_features, part_gradient)
        return features.terms, norms

    @torch.no_grad()
    def _features_without_graph(self, parts: Sequence[Tensor], seed: int) -> Tensor:
        features = []
        with kept_statistics(self._run.networks):
            for number, part in enumerate(parts, 1):
                # With the same seed dropout draws the same masks when the part is embedded again.
                torch.manual_seed(seed + number)
                before_neck, _ = self._embed(part)
                features.append(before_neck)
        return torch.cat(features)

    def _embed(self, images: Tensor) -> tuple[Tensor, Maps]:
        """Embed crops of this process's share.

        Returns:
            Features `(b, d)` float32 before the BNNeck, and outputs of the stages that losses read.
        """
        with self._autocast():
            before_neck, stages = self._run.networks.embedder.before_neck(images, self._stages)
        return before_neck.float(), stages

    def _autocast(self) -> torch.autocast:
        cast = self._dtype is not torch.float32
        return torch.autocast(self._run.device.type, dtype=self._dtype, enabled=cast)

    def _features(
        self,
        before_neck: Tensor,
        stages: Maps,
        batch: Batch,
        parts: Sequence[Tensor],
    ) -> Features:
        """Gather the features of the whole batch, and compute the weighted loss terms of them.

        The outputs of stages are not gathered: they stay those of this process's share.
        """
        run = self._run
        before_neck = run.processes.gather(before_neck)
        features = Features(
            before_neck,
            run.networks.embedder.after_neck(before_neck),
            batch.labels.to(run.device, non_blocking=True),
            run.networks.metric_network,
            dict(zip(self._stages, stages, strict=True)),
            tuple(teacher[batch.rows].to(run.device) for teacher in run.teachers),
        )
        if run.anchor is not None:
            with torch.no_grad(), self._autocast():
                share = torch.cat([run.anchor(part) for part in parts])
            features.start = run.processes.gather(share.float())
        with_parameters = run.networks.losses
        # Regularisers come last, because they read the terms before them.
        for name, settings in self._losses.items():
            if name in with_parameters:
                loss = with_parameters[name](features)
            else:
                loss = LOSSES[name].build(settings, features)
            features.terms[name] = settings.weight * loss
        return features

    def _backward(self, features: Features, with_norms: bool) -> Norms:
        norms = {}
        if with_norms:
            for name, term in features.terms.items():
                (gradient,) = torch.autograd.grad(term, features.before_neck, retain_graph=True)
                self._run.processes.average([gradient])
                norms[name] = float(gradient.norm())
        torch.autograd.backward(self.scaler.scale(features.total))
        return norms


def gradients_of(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


# Steps whose `Gradients.finite` was not read yet, each with the sources of its batch.
UncheckedSteps = list[tuple[Position, Sequence[str], Gradients]]


def refuse_divergence(
    unchecked: UncheckedSteps,
    log: RunLog,
    scaler: GradScaler,
) -> None:
    """Check that the losses and gradients of steps are finite, and clear the list of steps.

    On a CPU every step is checked before it changes a weight. On a GPU, which a check has to wait
    for, steps are checked when one is logged, and before weights are measured or saved.

    Raises:
        InputProblem: a loss or a gradient is not finite; names the terms and crops of the batch.
    """
    for position, sources, gradients in unchecked:
        if gradients.finite:
            continue
        terms = {name: float(term) for name, term in gradients.terms.items()}
        # JSON cannot represent infinities.
        texts = {name: str(value) for name, value in terms.items()}
        log.write("diverged", position.done, loss=texts, batch=list(sources))
        infinite = [f"{name} is {value}" for name, value in terms.items() if not isfinite(value)]
        if infinite:
            raise _divergence(f"the loss is not finite: {', '.join(infinite)}", sources)
        raise _divergence("a gradient is not finite", sources)
    if unchecked and scaler.get_scale() < SMALLEST_SCALE:
        raise _divergence("every gradient overflows float16", unchecked[-1][1])
    unchecked.clear()


def _divergence(problem: str, sources: Sequence[str]) -> InputProblem:
    named = ", ".join(sources[:NAMED_CROPS])
    return InputProblem(
        f"{problem} in the batch of {named}, … ({LOG_NAME} lists all {len(sources)} crops); train "
        "again with a lower optimisation.learning_rate or precision=float32; checkpoint.pt, if it "
        "exists, holds finite weights of an earlier step"
    )


def autocast_type(recipe: Recipe, device: torch.device) -> torch.dtype:
    """Return the number format that a recipe computes in on a device."""
    if recipe.precision == "float16":
        return torch.float16
    # In PyTorch 2.12.1 a bfloat16 convolution of stride 2 on a CPU reads memory that was never
    # written if its output is one pixel wide, as in the last stage for such crops.
    if device.type == "cpu" and recipe.preprocessing.width <= FLOAT32_WIDTH:
        return torch.float32
    return choose_dtype(device, recipe.precision)


@contextmanager
def kept_statistics(networks: nn.Module) -> Iterator[None]:
    """Undo the changes of BatchNorm statistics by forward passes in the block.

    Backward passes belong into the block too: they need the statistics of their forward passes.
    """
    buffers = list(networks.buffers())
    saved = [buffer.clone() for buffer in buffers]
    yield
    for buffer, value in zip(buffers, saved, strict=True):
        buffer.copy_(value)
