"""docker/grafana: the dashboards ask for metrics that there are, and Grafana finds them."""

import json

import yaml

from tests.docker.conftest import ROOT, text_of

DASHBOARDS = [path.read_text(encoding="utf-8") for path in (ROOT / "docker/grafana").glob("*.json")]


def test_every_panel_has_a_description_a_unit_and_a_place_of_its_own():
    assert DASHBOARDS
    for text in DASHBOARDS:
        panels = [panel for panel in json.loads(text)["panels"] if panel["type"] != "row"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(
            panels
        )
        for panel in panels:
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert all(target["expr"] for target in panel["targets"])


def test_grafana_finds_its_data_source_and_its_dashboards(compose):
    provisioning = "docker/grafana/provisioning"
    (source,) = yaml.safe_load(text_of(f"{provisioning}/datasources/prometheus.yml"))["datasources"]
    (provider,) = yaml.safe_load(text_of(f"{provisioning}/dashboards/dashboards.yml"))["providers"]
    mounts = compose["services"]["grafana"]["volumes"]
    assert f"./docker/grafana:{provider['options']['path']}:ro" in mounts
    assert source["url"] == "http://prometheus:9090"
    for text in DASHBOARDS:
        used = {
            panel["datasource"]["uid"] for panel in json.loads(text)["panels"] if "targets" in panel
        }
        assert used == {source["uid"]}
