"""One training step: from a batch to gradients, and from gradients to other weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from model.backbones import split_stages
from model.embedder import Embedder, Features
from model.precision import choose_dtype
from training.divergence import copy_tensors
from training.loader import Batch
from training.losses.adversarial import adversarial_perturbations
from training.losses.gradient_regulariser import gradient_regulariser
from training.objective import Lesson, gradient_norms, loss_terms
from training.recipe import Recipe
from training.run import Run

Terms = dict[str, torch.Tensor]


def autocast_type(recipe: Recipe, device: torch.device) -> torch.dtype:
    """The number format of a recipe on a device."""
    if recipe.precision == "float16":
        return torch.float16
    return choose_dtype(device, recipe.precision)


class Trunk(nn.Module):
    """The part that each process runs on its own crops: the embedder up to its BNNeck."""

    def __init__(self, embedder: Embedder, recipe: Recipe, device: torch.device) -> None:
        super().__init__()
        self.embedder = embedder
        self._type, self._device = autocast_type(recipe, device), device
        regulariser = recipe.losses.gradient_regulariser
        self._stages = regulariser.stages if regulariser.weight else ()

    def forward(
        self, images: torch.Tensor, perturbations: tuple[torch.Tensor, ...] = ()
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Features `(b, d)` float32 before the BNNeck, and the stages that are regularised."""
        cast = self._type is not torch.float32
        with torch.autocast(self._device.type, dtype=self._type, enabled=cast):
            before, stages = self.embedder.before_neck(images, self._stages, perturbations)
        return before.float(), stages

    def names_without_gradient(self) -> list[str]:
        """Parameters that no feature depends on: the neck's, and those of stages not fused."""
        config = self.embedder.config
        unread: list[nn.Module] = [self.embedder.neck]
        if config.multiscale is not None:
            stages = split_stages(config.backbone, self.embedder.backbone)
            unread += [part for stage in stages[max(config.multiscale.stages) :] for part in stage]
        unread_parameters = {id(p) for module in unread for p in module.parameters()}
        return [name for name, p in self.named_parameters() if id(p) in unread_parameters]


class GradientStep:
    """Computes the gradients of one batch, alone or together with other processes."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._trunk = Trunk(run.networks.embedder, run.recipe, run.device)
        self._shared: DistributedDataParallel | None = None
        if run.processes.count > 1:
            ignored = self._trunk.names_without_gradient()
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(  # type: ignore[no-untyped-call]
                self._trunk, ignored
            )
            # BatchNorm has one and the same statistics in all processes: nothing to broadcast.
            self._shared = DistributedDataParallel(self._trunk, broadcast_buffers=False)
        averaged = set() if self._shared is None else self._averaged_by_the_wrapper(ignored)
        self._heads = [p for p in run.networks.parameters() if id(p) not in averaged]

    def backward(
        self, batch: Batch, scale: torch.Tensor | None, seed: int, with_norms: bool
    ) -> tuple[Terms, dict[str, float]]:
        """Adds a batch's gradients to those of the parameters.

        Args:
            batch: the batch, of which this process embeds its share.
            scale: a factor on the gradients, for float16.
            seed: of what is random in the networks.
            with_norms: whether to measure each term's gradient, which takes time.

        Returns:
            The weighted loss terms, detached, on the device, and the norms by term.
        """
        images = self._run.batches.images(batch)
        factor = 1.0 if scale is None else scale
        micro = self._run.recipe.optimisation.micro_batch
        if micro is not None and micro < len(images):
            terms, norms = self._in_parts(images, batch, factor, seed, with_norms, micro)
        else:
            terms, norms = self._at_once(images, batch, factor, seed, with_norms)
        # Every process has the same gradients here but for the order in which a GPU adds.
        self._run.processes.average([p.grad for p in self._heads if p.grad is not None])
        return {name: term.detach() for name, term in terms.items()}, norms

    def _at_once(
        self,
        images: torch.Tensor,
        batch: Batch,
        factor: torch.Tensor | float,
        seed: int,
        with_norms: bool,
    ) -> tuple[Terms, dict[str, float]]:
        regulariser = self._run.recipe.losses.gradient_regulariser
        anchor = self._anchor([images])
        perturbations: tuple[torch.Tensor, ...] = ()
        if regulariser.weight and regulariser.form == "adversarial":
            with kept_statistics(self._run.networks), self._unshared():
                torch.manual_seed(seed)
                features = self._features(*self._embed(images))
                loss = total(self._terms(features, batch, anchor))
                perturbations = adversarial_perturbations(
                    loss, features.stages, regulariser.norm, regulariser.weight
                )
        torch.manual_seed(seed)
        features = self._features(*self._embed(images, perturbations))
        terms = self._terms(features, batch, anchor)
        if regulariser.weight and regulariser.form == "penalty":
            terms["msgr"] = regulariser.weight * gradient_regulariser(
                total(terms), features.stages, regulariser.norm, regulariser.exponent
            )
        norms = self._norms(terms, features) if with_norms else {}
        torch.autograd.backward(total(terms) * factor)
        return terms, norms

    def _in_parts(
        self,
        images: torch.Tensor,
        batch: Batch,
        factor: torch.Tensor | float,
        seed: int,
        with_norms: bool,
        micro: int,
    ) -> tuple[Terms, dict[str, float]]:
        """The whole batch's loss in the memory of a part (GradCache, Gao et al., 2021).

        All parts are embedded without a graph, the loss is taken by their features, and each part
        is embedded again to carry its features' gradients on to the weights.
        """
        # Of about one size: a BatchNorm cannot train on the one crop that might be left over.
        count = min(math.ceil(len(images) / micro), max(1, len(images) // 2))
        parts = torch.tensor_split(images, count)
        found = torch.cat(self._features_without_graph(parts, seed)).requires_grad_()
        torch.manual_seed(seed)
        features = self._features(found, ())
        terms = self._terms(features, batch, self._anchor(parts))
        norms = self._norms(terms, features) if with_norms else {}
        torch.autograd.backward(total(terms) * factor)
        gradients = torch.zeros_like(found) if found.grad is None else found.grad
        for number, (part, gradient) in enumerate(
            zip(parts, torch.tensor_split(gradients, count), strict=True), start=1
        ):
            with nullcontext() if number == len(parts) else self._unshared():
                torch.manual_seed(seed + number)
                torch.autograd.backward(self._embed(part)[0], gradient)
        return terms, norms

    def _features_without_graph(
        self, parts: Sequence[torch.Tensor], seed: int
    ) -> list[torch.Tensor]:
        """What each part will be embedded to when it is seeded by its number, from 1."""
        found = []
        with torch.no_grad(), kept_statistics(self._run.networks):
            for number, part in enumerate(parts, start=1):
                # Dropout and drop path draw the same masks when the part is embedded again.
                torch.manual_seed(seed + number)
                found.append(self._trunk(part)[0])
        return found

    def _embed(
        self, images: torch.Tensor, perturbations: tuple[torch.Tensor, ...] = ()
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        trunk = self._shared or self._trunk
        found: tuple[torch.Tensor, tuple[torch.Tensor, ...]] = trunk(images, perturbations)
        return found

    def _features(self, before: torch.Tensor, stages: tuple[torch.Tensor, ...]) -> Features:
        """Those of the whole batch, of which stages are this process's own."""
        gathered = self._run.processes.gather(before)
        return Features(gathered, self._run.networks.embedder.after_neck(gathered), stages)

    def _anchor(self, parts: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """What the embedder made of the whole batch before the first step."""
        embedder, device = self._run.anchor, self._run.device
        if embedder is None:
            return None
        number_format = autocast_type(self._run.recipe, device)
        cast = number_format is not torch.float32
        with torch.no_grad(), torch.autocast(device.type, dtype=number_format, enabled=cast):
            own = torch.cat([embedder(part) for part in parts])
        return self._run.processes.gather(own.float())

    def _terms(self, features: Features, batch: Batch, anchor: torch.Tensor | None) -> Terms:
        device = self._run.device
        labels = batch.labels.to(device, non_blocking=True)
        taught = [teacher.features[batch.rows].to(device) for teacher in self._run.teachers]
        lesson = Lesson(taught, self._run.recipe.distillation)
        settings = self._run.recipe.losses
        return loss_terms(self._run.networks, features, labels, settings, lesson, anchor)

    def _norms(self, terms: Terms, features: Features) -> dict[str, float]:
        return gradient_norms(terms, features.before_neck, self._run.processes)

    def _unshared(self) -> AbstractContextManager[None]:
        return nullcontext() if self._shared is None else self._shared.no_sync()

    def _averaged_by_the_wrapper(self, ignored: list[str]) -> set[int]:
        return {id(p) for name, p in self._trunk.named_parameters() if name not in ignored}


def total(terms: Terms) -> torch.Tensor:
    """L, the sum of all weighted terms."""
    return torch.stack(list(terms.values())).sum()


@contextmanager
def kept_statistics(networks: nn.Module) -> Iterator[None]:
    """Undoes what forward passes in the block do to the BatchNorm statistics.

    Gradients of these passes are to be taken in the block: they were computed with the statistics.
    """
    buffers = list(networks.buffers())
    before = [buffer.clone() for buffer in buffers]
    yield
    copy_tensors(buffers, before)
