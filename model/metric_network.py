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

    def __init__(
        self,
        dimension: int,
        config: MetricNetworkConfig,
    ) -> None:
        super().__init__()
        self.dimension = dimension
        self.config = config
        self.perturbing = False
        layers: list[nn.Module] = []
        if config.layers == "two":
            hidden = config.hidden
            layers = [nn.Linear(dimension, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
            dimension = hidden
        self.classifier = nn.Sequential(*layers, nn.Linear(dimension, 2))

    def comparable(self, features: Tensor) -> Tensor:
        """Return features `(…, d)` as `pair_features` takes them."""
        return comparable_features(features, self.config.pair_feature)

    def pair_features(
        self,
        first: Tensor,
        second: Tensor,
    ) -> Tensor:
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


class PairScorer:
    """M-Net prepared to score many pairs.

    BatchNorm and the factor of the pair feature are folded into the weights of the first layer, and
    the two logits into one score. A chunk of pairs then costs a matrix product, a product with a
    vector, and three elementwise passes over buffers that all chunks share.

    Attributes:
        kind: kind of the pair feature.
        kernel, floor, weights, bias: see `FoldedMetricNetwork`.
    """

    @torch.inference_mode()
    def __init__(self, metric_network: MetricNetwork) -> None:
        """Copy the weights of a network in evaluation mode, on their device.

        Raises:
            InputProblem: the network is in training mode.
        """
        if metric_network.training:
            raise InputProblem(
                "the metric network is in training mode; call .eval() before scoring"
            )
        self.dimension = metric_network.dimension
        self.kind = metric_network.config.pair_feature
        state = metric_network.classifier.state_dict()
        tensors = {name: tensor.double().cpu().numpy() for name, tensor in state.items()}
        folded = fold(metric_network.config, self.dimension, tensors)
        device = state["0.weight"].device
        self.kernel: Tensor | None = None
        if folded.kernel is not None:
            self.kernel = torch.from_numpy(folded.kernel).to(device)
        self.floor = torch.from_numpy(folded.floor).to(device)
        self.weights = torch.from_numpy(folded.weights).to(device)
        self.bias = self.weights.new_tensor(folded.bias)

    @torch.inference_mode()
    def scores(
        self,
        queries: Tensor,
        gallery: Tensor,
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
        size = pairs_in_a_chunk(scores.device)
        # Each part of a large gallery is read from memory once for several queries.
        rows = QUERIES_PER_CHUNK if len(gallery) > size else size // max(1, len(gallery))
        rows = max(1, min(len(queries), size, rows))
        columns = max(1, min(len(gallery), size // rows))
        pairs = queries.new_empty((rows * columns, self.dimension))
        hidden = queries.new_empty((rows * columns, len(self.floor)))
        with torch.autocast(scores.device.type, enabled=False):
            parts = torch.split(gallery, columns)
            answers = torch.split(scores, rows)
            for asked, answer in zip(torch.split(queries, rows), answers, strict=True):
                for part, block in zip(parts, torch.split(answer, columns, dim=1), strict=True):
                    chunk = pairs[: block.numel()]
                    torch.sub(asked[:, None], part, out=chunk.view(*block.shape, self.dimension))
                    block.copy_(self._score(chunk, hidden[: block.numel()]).view(block.shape))
        return scores.add_(self.bias)

    @torch.inference_mode()
    def scores_of(self, differences: Tensor) -> Tensor:
        """Return the scores `(n,)` of differences `(n, d)` of comparable features; overwrite these.

        It is for few pairs, and has few operations, since each of them may let other threads run.
        """
        # With len() instead of the shape, an exported graph would take this number of pairs only.
        hidden = differences.new_empty((differences.shape[0], len(self.floor)))
        return self._score(differences, hidden).add_(self.bias)

    def _score(
        self,
        pairs: Tensor,
        hidden: Tensor,
    ) -> Tensor:
        """Return the scores `(n,)` of differences without the bias; overwrite both arguments."""
        pairs = pairs.abs_() if self.kind == "abs" else pairs.square_()
        if self.kernel is None:
            return torch.mv(pairs, self.weights)
        torch.mm(pairs, self.kernel, out=hidden)
        torch.maximum(hidden, self.floor, out=hidden)
        return torch.mv(hidden, self.weights)


def score_pairs(
    metric_network: MetricNetwork,
    queries: Tensor,
    gallery: Tensor,
) -> Tensor:
    """Compute M-Net's score s(p, q) of every pair, `(Q, G)` float32 on the features' device.

    The score of a pair depends on its two features alone, never on the other candidates.

    Args:
        metric_network: M-Net in evaluation mode.
        queries, gallery: features `(Q, d)` and `(G, d)`.

    Raises:
        InputProblem: the features have another dimension, or the network is in training mode.
    """
    return PairScorer(metric_network).scores(queries, gallery)


def pairs_in_a_chunk(device: torch.device) -> int:
    """Return the number of pairs that are scored at once; each takes 4·(d + hidden) bytes."""
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

    @torch.inference_mode()
    def mean_scores(self, queries: Floats, candidates: Floats, pairs_per_pass: int) -> Floats:
        """Return the mean score `(n,)` float32 of each candidate over the queries.

        The candidates are copied to the device once, and its only wait is for all their scores.

        Args:
            queries: features `(m, d)` of one person.
            candidates: features `(n, d)`.
            pairs_per_pass: height of each matrix product, to which candidates are padded: a score
                then does not depend on their number, to the last digit.
        """
        device = self._scorer.weights.device
        asked = comparable_features(torch.tensor(queries, device=device), self.kind)
        padded_count = -(-len(candidates) // pairs_per_pass) * pairs_per_pass
        padded = torch.ones((padded_count, candidates.shape[1]), device=device)
        padded[: len(candidates)] = torch.tensor(candidates, device=device)
        totals = torch.zeros(padded_count, dtype=torch.float64, device=device)
        for part, total in zip(
            torch.split(padded, pairs_per_pass), torch.split(totals, pairs_per_pass), strict=True
        ):
            gallery = comparable_features(part, self.kind)
            for query in asked:
                total += self._scorer.scores_of(gallery - query)
        means = (totals / len(queries)).float()
        return means[: len(candidates)].cpu().numpy()

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
