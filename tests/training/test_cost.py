"""Parameters and FLOPs, beside those that the MSFL paper prints."""

import pytest

from model.architecture import EmbedderConfig, HeadConfig, MetricNetworkConfig, MultiscaleConfig
from model.preprocessing import Preprocessing
from training.cost import embedder_cost, pair_cost

PAPER_SIZE = Preprocessing(height=256, width=128)


def resnet50(last_stride=2, **multiscale):
    return EmbedderConfig(
        backbone="resnet50",
        last_stride=last_stride,
        pooling="average",
        head=HeadConfig(),
        multiscale=MultiscaleConfig(**multiscale) if multiscale else None,
    )


@pytest.mark.parametrize(
    ("config", "millions", "billions"),
    [
        (resnet50(), 24.56, 2.67),  # the paper: 24.56 and 2.6
        (resnet50(last_stride=1), 24.56, 4.05),  # the paper: 24.56 and 4.1
        (resnet50(top_down="1x1"), 29.00, 5.91),  # the paper: 27 and 5.9
        (resnet50(top_down="depthwise"), 29.01, 5.92),
        (resnet50(top_down="3x3"), 35.29, 11.55),
    ],
    ids=["baseline", "last stride 1", "1x1", "depthwise", "3x3"],
)
def test_the_counts_stand_beside_the_papers(config, millions, billions):
    cost = embedder_cost(config, PAPER_SIZE)
    assert cost.parameters / 1e6 == pytest.approx(millions, abs=0.005)
    assert cost.multiply_adds / 1e9 == pytest.approx(billions, abs=0.005)


def test_the_metric_networks_cost_per_pair_is_its_two_layers():
    cost = pair_cost(512, MetricNetworkConfig(hidden=256))
    assert cost.multiply_adds == 512 * 256 + 256 * 2
    assert cost.parameters == (512 + 1) * 256 + 2 * 256 + (256 + 1) * 2
