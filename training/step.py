"""One training step: from a batch to loss terms, to gradients, and to other weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from math import ceil, isfinite
from typing import NamedTuple

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from model.embedder import Embedder
from model.precision import choose_dtype
from model.problems import InputProblem
from training.batches import Batch
from training.checkpoint import Position
from training.losses.base import LOSSES, Features
from training.recipe import Recipe
from training.run import Run
from training.run_folder import LOG_NAME, RunLog

Terms = dict[str, torch.Tensor]
NAMED_CROPS = 4
SMALLEST_SCALE = 1e-6


class Gradients(NamedTuple):
    """What a batch's gradients came from.

    Attributes:
        terms: the weighted loss terms, detached, on the device.
        norms: of each term's gradient at the pooled feature; empty where they were not asked for.
        finite: whether the loss is finite and, but for float16's scaled ones, every gradient; a
            scalar on the device, so that a GPU need not be waited for.
    """

    terms: Terms
    norms: dict[str, float]
    finite: torch.Tensor


class TrainingStep:
    """Computes the gradients of a batch, alone or together with other processes, and applies them.

    Attributes:
        scaler: of the loss where the recipe computes in float16; switched off elsewhere.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._networks = run.networks
        self._recipe = run.recipe
        self._trunk = Trunk(run.networks.embedder, run.recipe, run.device)
        self._losses: list[tuple[str, float, Callable[[Features], torch.Tensor]]] = []
        for name, settings in run.recipe.losses.on.items():
            kind = LOSSES[name]
            if kind.needs != "teachers" or run.teachers:
                built = run.networks.losses
                loss = built[name] if name in built else partial(kind.build, settings)
                self._losses.append((name, settings.weight, loss))
        self._shared: DistributedDataParallel | None = None
        averaged: set[int] = set()
        if run.processes.count > 1:
            ignored = self._trunk.names_without_gradient()
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(  # type: ignore[no-untyped-call]
                self._trunk, ignored
            )
            # BatchNorm has one and the same statistics in all processes: nothing to broadcast.
            self._shared = DistributedDataParallel(self._trunk, broadcast_buffers=False)
            averaged = {id(p) for name, p in self._trunk.named_parameters() if name not in ignored}
        self._heads = [p for p in run.networks.parameters() if id(p) not in averaged]
        scaled = autocast_type(run.recipe, run.device) is torch.float16
        self.scaler = GradScaler(run.device.type, enabled=scaled)

    def gradients(self, batch: Batch, seed: int, with_norms: bool = False) -> Gradients:
        """Replaces the parameters' gradients by those of a batch.

        Args:
            batch: the batch, of which this process embeds its share.
            seed: of what is random in the networks.
            with_norms: whether to measure each term's gradient, which takes time.
        """
        run = self._run
        run.optimiser.zero_grad(set_to_none=True)
        images = run.batches.images(batch)
        micro = self._recipe.optimisation.micro_batch
        if micro is not None and micro < len(images):
            terms, norms = self._in_parts(images, batch, seed, with_norms, micro)
        else:
            terms, norms = self._at_once(images, batch, seed, with_norms)
        if self._shared is not None:
            # Every process has the same gradients here but for the order in which a GPU adds.
            run.processes.average([p.grad for p in self._heads if p.grad is not None])
        values = torch.stack(list(terms.values())).detach()
        watched = values.sum()
        # Scaled gradients may overflow: the scaler skips such a step and scales less.
        if not self.scaler.is_enabled():
            gradients = [p.grad for p in run.networks.parameters() if p.grad is not None]
            watched = watched + torch.stack(torch._foreach_norm(gradients)).sum()
        return Gradients(dict(zip(terms, values, strict=True)), norms, watched.isfinite())

    def update(self) -> None:
        """Changes the weights by their gradients, and takes them into their average."""
        self.scaler.step(self._run.optimiser)
        self.scaler.update()
        if self._run.average is not None:
            self._run.average.update_parameters(self._networks)

    def train(self, batch: Batch, seed: int) -> None:
        """A whole step, for those that measure its cost."""
        self.gradients(batch, seed)
        self.update()

    def _at_once(
        self, images: torch.Tensor, batch: Batch, seed: int, with_norms: bool
    ) -> tuple[Terms, dict[str, float]]:
        network = self._shared or self._trunk
        torch.manual_seed(seed)
        before, stages = network(images)
        features = self._features(before, stages, batch, [images])
        self._add_terms(features)
        norms = self._norms(features) if with_norms else {}
        torch.autograd.backward(self.scaler.scale(features.total))
        return features.terms, norms

    def _in_parts(
        self, images: torch.Tensor, batch: Batch, seed: int, with_norms: bool, micro: int
    ) -> tuple[Terms, dict[str, float]]:
        """Return the whole batch's loss in the memory of a part (GradCache, Gao et al., 2021).

        All parts are embedded without a graph, the loss is taken by their features, and each part
        is embedded again to carry its features' gradients on to the weights.
        """
        # Of about one size: a BatchNorm cannot train on the one crop that might be left over.
        count = min(ceil(len(images) / micro), max(1, len(images) // 2))
        parts = torch.tensor_split(images, count)
        found = torch.cat(self._features_without_graph(parts, seed)).requires_grad_()
        torch.manual_seed(seed)
        features = self._features(found, (), batch, parts)
        self._add_terms(features)
        norms = self._norms(features) if with_norms else {}
        torch.autograd.backward(self.scaler.scale(features.total))
        gradients = torch.zeros_like(found) if found.grad is None else found.grad
        for number, (part, gradient) in enumerate(
            zip(parts, torch.tensor_split(gradients, count), strict=True), start=1
        ):
            with nullcontext() if number == len(parts) else self._unshared():
                torch.manual_seed(seed + number)
                own, _ = (self._shared or self._trunk)(part)
                torch.autograd.backward(own, gradient)
        return features.terms, norms

    def _features_without_graph(
        self, parts: Sequence[torch.Tensor], seed: int
    ) -> list[torch.Tensor]:
        """Return what each part will be embedded to when it is seeded by its number, from 1."""
        found = []
        with torch.no_grad(), kept_statistics(self._networks):
            for number, part in enumerate(parts, start=1):
                # Dropout and drop path draw the same masks when the part is embedded again.
                torch.manual_seed(seed + number)
                found.append(self._trunk(part)[0])
        return found

    def _features(
        self,
        before: torch.Tensor,
        stages: tuple[torch.Tensor, ...],
        batch: Batch,
        parts: Sequence[torch.Tensor],
    ) -> Features:
        """What the losses compare: the whole batch, but for the stages of this process's share."""
        device = self._run.device
        networks = self._networks
        if self._shared is not None:
            before = self._run.processes.gather(before)
        return Features(
            before,
            networks.embedder.after_neck(before),
            batch.labels.to(device, non_blocking=True),
            networks.metric_network,
            dict(zip(self._trunk.stages, stages, strict=False)),
            tuple(known[batch.rows].to(device) for known in self._run.teachers),
            None if self._run.anchor is None else self._at_start(self._run.anchor, parts),
        )

    def _at_start(self, embedder: nn.Module, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return what the embedder made of the whole batch before the first step."""
        device = self._run.device
        number_format = autocast_type(self._recipe, device)
        cast = number_format is not torch.float32
        with torch.no_grad(), torch.autocast(device.type, dtype=number_format, enabled=cast):
            own = torch.cat([embedder(part) for part in parts])
        return self._run.processes.gather(own.float())

    def _add_terms(self, features: Features) -> None:
        """Adds the weighted terms of L to the features' own; a regulariser sees those before it."""
        for name, weight, loss in self._losses:
            features.terms[name] = weight * loss(features)

    def _norms(self, features: Features) -> dict[str, float]:
        """The norm of each term's gradient at the pooled feature `(B, d)`; keeps the graph."""
        norms = {}
        for name, term in features.terms.items():
            (gradient,) = torch.autograd.grad(term, features.before_neck, retain_graph=True)
            self._run.processes.average([gradient])
            norms[name] = float(gradient.norm())
        return norms

    def _unshared(self) -> AbstractContextManager[None]:
        return nullcontext() if self._shared is None else self._shared.no_sync()


class Trunk(nn.Module):
    """The part that each process runs on its own crops: the embedder up to its BNNeck."""

    def __init__(self, embedder: Embedder, recipe: Recipe, device: torch.device) -> None:
        super().__init__()
        self.embedder = embedder
        self._type = autocast_type(recipe, device)
        self._device = device
        self.stages = recipe.losses.stages

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Features `(b, d)` float32 before the BNNeck, and the stages that a loss reads."""
        cast = self._type is not torch.float32
        with torch.autocast(self._device.type, dtype=self._type, enabled=cast):
            before, stages = self.embedder.before_neck(images, self.stages)
        return before.float(), stages

    def names_without_gradient(self) -> list[str]:
        """Parameters that no feature depends on: the neck's, and those of stages not fused."""
        config = self.embedder.config
        unread: list[nn.Module] = [self.embedder.neck]
        if config.multiscale is not None:
            stages = self.embedder.stages()
            unread += [part for stage in stages[max(config.multiscale.stages) :] for part in stage]
        unread_parameters = {id(p) for module in unread for p in module.parameters()}
        return [name for name, p in self.named_parameters() if id(p) in unread_parameters]


Unread = list[tuple[Position, Sequence[str], Gradients]]
"""Steps that were not looked at yet, each with the sources of its batch."""


def refuse_divergence(unread: Unread, log: RunLog, scaler: GradScaler) -> None:
    """Looks at steps, and forgets them where their losses and gradients are finite.

    A CPU's steps are looked at before they change a weight; a GPU's when a step is logged, and
    before weights are measured or saved, so that the GPU need not be waited for at every step.

    Raises:
        InputProblem: naming the terms that are not finite, and crops of the batch.
    """
    for now, sources, found in unread:
        if not bool(found.finite):
            terms = {name: float(term) for name, term in found.terms.items()}
            texts = {name: str(value) for name, value in terms.items()}
            log.write("diverged", now.done, loss=texts, batch=list(sources))
            lost = [f"{name} is {value}" for name, value in terms.items() if not isfinite(value)]
            what = (
                f"the loss is not finite: {', '.join(lost)}" if lost else "a gradient is not finite"
            )
            raise _divergence(what, sources)
    if unread and scaler.get_scale() < SMALLEST_SCALE:
        raise _divergence("every gradient overflows float16", unread[-1][1])
    unread.clear()


def _divergence(what: str, sources: Sequence[str]) -> InputProblem:
    named = ", ".join(sources[:NAMED_CROPS])
    return InputProblem(
        f"{what}, on the batch of {named}, … (all {len(sources)} are in {LOG_NAME}); train anew "
        "with a lower optimisation.learning_rate or precision=float32; checkpoint.pt, where there "
        "is one, has finite weights from before this step"
    )


def autocast_type(recipe: Recipe, device: torch.device) -> torch.dtype:
    """Return the number format of a recipe on a device."""
    if recipe.precision == "float16":
        return torch.float16
    return choose_dtype(device, recipe.precision)


@contextmanager
def kept_statistics(networks: nn.Module) -> Iterator[None]:
    """Undoes what forward passes in the block do to the BatchNorm statistics.

    Gradients of these passes are to be taken in the block: they were computed with the statistics.
    """
    buffers = list(networks.buffers())
    before = [buffer.clone() for buffer in buffers]
    yield
    for buffer, kept in zip(buffers, before, strict=True):
        buffer.copy_(kept)
