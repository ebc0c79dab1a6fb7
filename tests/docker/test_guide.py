"""The guides: every command is typed by the compose test, every alert and metric is so."""

import re

import pytest
import yaml

from service.errors import ServiceError
from service.http.problems import CODE_OF_STATUS
from service.ops.metrics import Metrics
from tests.compose.guide import blocks
from tests.docker.conftest import text_of

RULES = yaml.safe_load(text_of("docker/alerts.yml"))["groups"][0]["rules"]


def metric_names():
    metrics = Metrics()
    return {
        f"{metric.name}_total" if metric.type == "counter" else metric.name
        for registry in (metrics.counted, metrics.state)
        for metric in registry.collect()
    }


def test_every_block_of_commands_is_typed_by_the_compose_test():
    story = "".join(
        text_of(f"tests/compose/{name}.py") for name in ("run", "checks", "milvus", "postgres")
    )
    typed = set(re.findall(r'\.do\("([^"]+)"\)', story))
    assert typed == set(blocks())


def test_every_metric_is_explained(monitoring):
    shown = re.findall(r"^\| `((?:gmn|process)_\w+)` \|", monitoring, re.MULTILINE)
    assert set(shown) == metric_names()


def test_every_alert_is_explained(monitoring):
    alerts = monitoring.split("| alert |")[1].split("\n\n")[0]
    shown = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", alerts, re.MULTILINE)
    assert set(shown) == {rule["alert"] for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_watches_problems_that_there_are_and_says_what_it_is(rule):
    for code in re.findall(r'code=~?"([^"]+)"', rule["expr"]):
        assert set(code.split("|")) <= {
            *(error.code for error in ServiceError.__subclasses__()),
            *CODE_OF_STATUS.values(),
            "not_embedded",
        }
    assert rule["annotations"]["summary"]
    assert rule["labels"]["severity"] in ("warning", "critical")


def test_the_log_of_a_run_that_lost_nothing_is_kept_with_its_date():
    shown = text_of("docs/figures/compose-test.txt")
    assert re.search(r"begun \d{4}-\d\d-\d\d", shown)
    assert "nothing lost" in shown
