"""The bench of a query's parts finds time in each of them."""

import pytest

from bench import parts, without


def test_each_part_of_a_query_takes_time(tiny_artefact, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setattr(parts, "REPETITIONS", 1)
    monkeypatch.setattr(without, "BLOCKS", 1)
    monkeypatch.setattr(without, "QUERIES", 2)
    result = parts.bench_parts(str(tiny_artefact))
    micros = result.details["parts"]
    assert all(value > 0 for value in micros.values())
    assert micros["M-Net, if asked for"] < micros["search"]
    assert micros["network"] + micros["event loop"] < micros["whole query"]
    assert result.ratio == pytest.approx(micros["network"] / micros["whole query"], abs=1e-4)
    threads = result.details["threads"]
    assert {"event loop", "decode threads", "threads of the networks"} <= threads.keys()
    assert all(value >= 0 for value in threads.values())
    assert {"nothing", "network", "audit log"} <= result.details["without"].keys()
