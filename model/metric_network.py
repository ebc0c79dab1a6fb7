"""M-Net, which turns pair features into the logits "different" and "same", and its pair scores.

The sample-pair feature of GMN is f_sp(p, q) = (f_p − f_q)⊙(f_p − f_q), here `raw`. The default is
d·(z_p − z_q)⊙(z_p − z_q) with z = f/‖f‖₂. Unit length makes features comparable across domains, and
the factor d brings the entries near 1, so that the eps of a BatchNorm does not swallow them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.architecture import MetricNetworkConfig, PairFeatureKind, pair_factor
from model.arrays import Floats
from model.metric_folding import fold
from model.problems import InputProblem

# On a CPU the buffers of this many pairs stay in the cache of each core. A GPU needs more at once.
PAIRS_PER_THREAD = 512
PAIRS_ON_GPU = 32_768
QUERIES_PER_CHUNK = 16


def unit_features(features: Tensor) -> Tensor:
    """Compute z = f/‖f‖₂ of features `(…, d)`, float32."""
    return functional.normalize(features.float(), dim=-1)


def comparable_features(features: Tensor, kind: PairFeatureKind) -> Tensor:
    """Return features as `pair_features` takes them, `(…, d)` float32: z, or f for `raw`."""
    return features.float() if kind == "raw" else unit_features(features)


def pair_features(
    first: Tensor,
    second: Tensor,
    kind: PairFeatureKind = "square",
) -> Tensor:
    """Compute pair features `(…, d)` float32 of comparable features, which are broadcast.

    `square` is d·(z_p − z_q)² and `abs` is √d·|z_p − z_q|, "Squ" and "Abs" of Figure 3. `raw` is
    (f_p − f_q)², as the paper writes it.
    """
    difference = first - second
    size = difference.abs() if kind == "abs" else difference.square()
    return size * pair_factor(kind, difference.shape[-1])


class MetricNetwork(nn.Module):
    """GMN's metric network for pair features of size d.

    Attributes:
        perturbing: DP is on, in training mode alone; the trainer sets it after the warm-up.
    """

    def __init__(self, dimension: int, config: MetricNetworkConfig) -> None:
        super().__init__()
        self.dimension = dimension
        self.config = config
        self.perturbing = False
        layers: list[nn.Module]
        if config.layers == "linear":
            layers = [nn.Linear(dimension, 2)]
        else:
            layers = [
                nn.Linear(dimension, config.hidden),
                nn.BatchNorm1d(config.hidden),
                nn.ReLU(inplace=True),
                nn.Linear(config.hidden, 2),
            ]
        self.classifier = nn.Sequential(*layers)

    def comparable(self, features: Tensor) -> Tensor:
        """Return features `(…, d)` as `pair_features` takes them."""
        return comparable_features(features, self.config.pair_feature)

    def pair_features(self, first: Tensor, second: Tensor) -> Tensor:
        """Compute pair features `(…, d)` of this network's kind from comparable features."""
        return pair_features(first, second, self.config.pair_feature)

    def forward(self, pairs: Tensor) -> Tensor:
        """Compute logits `(N, 2)` float32 of pair features `(N, d)`; column 1 is "same"."""
        if self.perturbing:
            pairs = functional.dropout(pairs, self.config.dropout, self.training)
        with torch.autocast(pairs.device.type, enabled=False):
            return self.classifier(pairs.float())

    def scores(self, pairs: Tensor) -> Tensor:
        """Compute scores `(N,)` of pair features, s(p, q) = logit₁ − logit₀."""
        logits = self.forward(pairs)
        return logits[:, 1] - logits[:, 0]

    @torch.no_grad()
    def move_scores(self, by: float) -> None:
        """Add `by` to the score of every pair, in the bias of the last layer."""
        last = len(self.classifier) - 1
        bias = self.get_parameter(f"classifier.{last}.bias")
        bias.add_(bias.new_tensor([-by / 2.0, by / 2.0]))


class PairScorer:
    """M-Net prepared to score many pairs.

    BatchNorm and the factor of the pair feature are folded into the weights of the first layer, and
    the two logits into one score. A chunk of pairs then costs a matrix product, a product with a
    vector, and three elementwise passes over buffers that all chunks share.

    Attributes:
        kind: kind of the pair feature.
        kernel: weights `(d, hidden)` of squared or absolute differences of comparable features;
            None for a linear M-Net.
        negative_shift: lower bound `(hidden,)` of the products of differences and kernel.
        weights, bias: the score is hidden · weights + bias.
    """

    @torch.inference_mode()
    def __init__(
        self,
        metric_network: MetricNetwork,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Copy the weights of a network, on their device.

        Args:
            metric_network: the network, in evaluation mode.
            dtype: type of the matrix product of the first layer.

        Raises:
            InputProblem: the network is in training mode.
        """
        if metric_network.training:
            raise InputProblem(
                "the metric network is in training mode; call .eval() before scoring"
            )
        self.dimension = metric_network.dimension
        self._dtype = dtype
        self.kind = metric_network.config.pair_feature
        state = metric_network.classifier.state_dict()
        tensors = {name: tensor.double().cpu().numpy() for name, tensor in state.items()}
        folded = fold(metric_network.config, self.dimension, tensors)
        device = state["0.weight"].device
        weights = torch.from_numpy(folded.weights).to(device)
        bias = weights.new_tensor(folded.bias)
        self.kernel: Tensor | None = None
        if folded.kernel is not None:
            kernel = torch.from_numpy(folded.kernel)
            self.kernel = kernel.to(device, dtype).contiguous()
            # max(h + b, 0) = max(h, −b) + b: the activation and the bias are one pass.
            self.negative_shift = -torch.from_numpy(folded.shift).to(device, dtype)
            bias = bias - weights @ self.negative_shift.double()
        self.weights = weights.float()
        self.bias = bias.float()

    @torch.inference_mode()
    def scores(
        self,
        queries: Tensor,
        gallery: Tensor,
        pairs_per_chunk: int | None = None,
    ) -> Tensor:
        """Compute M-Net's score s(p, q) of every pair; see `score_pairs`."""
        for name, features in (("queries", queries), ("gallery", gallery)):
            if features.ndim != 2 or features.shape[1] != self.dimension:
                raise InputProblem(
                    f"{name} have shape {tuple(features.shape)}, but this M-Net compares features "
                    f"(n, {self.dimension}); embed them with the same artefact"
                )
        queries = comparable_features(queries, self.kind)
        gallery = comparable_features(gallery, self.kind)
        scores = queries.new_empty((len(queries), len(gallery)))
        size = pairs_per_chunk or pairs_in_a_chunk(scores.device)
        columns = max(1, min(len(gallery), size))
        rows = max(1, min(len(queries), size // columns))
        if len(gallery) > size:
            # Each part of the gallery is read from memory once for several queries.
            rows = max(1, min(len(queries), size, QUERIES_PER_CHUNK))
            columns = size // rows
        pairs = queries.new_empty((rows * columns, self.dimension))
        hidden = self._hidden(rows * columns)
        with torch.autocast(scores.device.type, enabled=False):
            for row in range(0, len(queries), rows):
                asked = queries[row : row + rows, None]
                for column in range(0, len(gallery), columns):
                    part = gallery[column : column + columns]
                    shape = (len(asked), len(part))
                    count = shape[0] * shape[1]
                    chunk = pairs[:count]
                    torch.sub(asked, part, out=chunk.view(*shape, self.dimension))
                    block = self._score(chunk, hidden[:count]).view(shape)
                    scores[row : row + rows, column : column + columns] = block
        return scores.add_(self.bias)

    @torch.inference_mode()
    def scores_of(self, differences: Tensor) -> Tensor:
        """Return the scores `(n,)` of differences `(n, d)` of comparable features; overwrite these.

        It is for few pairs, and has few operations, since each of them may let other threads run.
        """
        # With len() instead of the shape, an exported graph would take this number of pairs only.
        hidden = self._hidden(differences.shape[0])
        return self._score(differences, hidden).add_(self.bias)

    def _hidden(self, pairs: int) -> Tensor:
        width = 0 if self.kernel is None else self.kernel.shape[1]
        return self.weights.new_empty((pairs, width), dtype=self._dtype)

    def _score(self, pairs: Tensor, hidden: Tensor) -> Tensor:
        """Return the scores `(n,)` of differences but for the bias; overwrite both arguments."""
        pairs = pairs.abs_() if self.kind == "abs" else pairs.square_()
        if self.kernel is None:
            return torch.mv(pairs, self.weights)
        torch.mm(pairs.to(self._dtype), self.kernel, out=hidden)
        torch.maximum(hidden, self.negative_shift, out=hidden)
        return torch.mv(hidden.float(), self.weights)


def score_pairs(
    metric_network: MetricNetwork,
    queries: Tensor,
    gallery: Tensor,
    pairs_per_chunk: int | None = None,
) -> Tensor:
    """Compute M-Net's score s(p, q) of every pair, `(Q, G)` float32 on the features' device.

    The score of a pair depends on its two features alone, never on the other candidates.

    Args:
        metric_network: M-Net in evaluation mode.
        queries, gallery: features `(Q, d)` and `(G, d)`.
        pairs_per_chunk: number of pairs in memory at once, each of 4·(d + hidden) bytes.

    Raises:
        InputProblem: the features have another dimension, or the network is in training mode.
    """
    return PairScorer(metric_network).scores(queries, gallery, pairs_per_chunk)


def pairs_in_a_chunk(device: torch.device) -> int:
    """Return the number of pairs that are scored at once on a device by default."""
    if device.type == "cpu":
        return PAIRS_PER_THREAD * torch.get_num_threads()
    return PAIRS_ON_GPU


@torch.inference_mode()
def cosine_similarities(queries: Tensor, gallery: Tensor) -> Tensor:
    """Compute the cosine of every pair, `(Q, G)` float32, of features `(Q, d)` and `(G, d)`."""
    return unit_features(queries) @ unit_features(gallery).T


class TorchPairScores:
    """M-Net in PyTorch, on the device of the network, for `model.pair_scores.PairScores`."""

    def __init__(self, metric_network: MetricNetwork) -> None:
        """Copy the weights of a network in evaluation mode."""
        self._scorer = PairScorer(metric_network)
        self.kind = self._scorer.kind

    def scores_of(self, differences: Floats) -> Floats:
        """Return the scores `(n,)` float32 of differences `(n, d)`."""
        pairs = torch.from_numpy(differences).to(self._scorer.weights.device, copy=True)
        threads = torch.get_num_threads()
        try:
            # Several threads are slower for few pairs, and take cores from other work.
            torch.set_num_threads(1)
            return self._scorer.scores_of(pairs).cpu().numpy()
        finally:
            torch.set_num_threads(threads)
