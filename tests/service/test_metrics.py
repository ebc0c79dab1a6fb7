"""`/metrics` shows the product: verdicts, jobs, calibrations, the disk, and the record."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import yaml

from tests.waiting import eventually

DOCKER = Path(__file__).parents[2] / "docker"


def figure(served, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", served.http.get("/metrics").text, re.MULTILINE)
    assert found, name
    return float(found[1])


def test_verdicts_are_counted_by_kind(served, gallery, drawn_crops) -> None:
    kinds = ("match", "uncertain", "no_match", "nothing_searched")
    names = {kind: f'gmn_verdicts_total{{verdict="{kind}"}}' for kind in kinds}
    before = {kind: figure(served, name) for kind, name in names.items()}
    verdicts = [served.query(gallery, drawn_crops[0].png).json()["verdict"]]
    served.enroll(gallery, drawn_crops[0].png)
    verdicts.append(served.query(gallery, drawn_crops[0].png).json()["verdict"])
    assert verdicts[0] == "nothing_searched"
    for kind, name in names.items():
        assert figure(served, name) == before[kind] + verdicts.count(kind)


def test_the_disk_and_the_record_have_their_sizes(served, gallery, drawn_crops, tmp_path) -> None:
    assert figure(served, "gmn_disk_bytes") == shutil.disk_usage(tmp_path).total
    assert 0 < figure(served, "gmn_disk_free_bytes") < figure(served, "gmn_disk_bytes")
    pictures = [crop.png for crop in drawn_crops]
    served.enroll(gallery, *pictures)
    assert figure(served, "gmn_record_bytes") > sum(map(len, pictures))


def test_the_state_of_a_gallerys_thresholds_is_one_of_its_settings(served, gallery) -> None:
    name = f'gmn_gallery_calibration{{gallery="{gallery}",state="%s"}}'
    assert figure(served, name % "artefact") == 1
    served.http.patch(f"/v1/galleries/{gallery}", data={"calibration": "off"})
    assert figure(served, name % "off") == 1
    served.http.delete(f"/v1/galleries/{gallery}")
    assert f'gallery="{gallery}"' not in served.http.get("/metrics").text


def test_a_job_that_fails_is_counted(served, gallery) -> None:
    name = 'gmn_jobs_ended_total{state="failed"}'
    before = figure(served, name)
    archive = {"archive": ("broken.zip", b"PK\x03\x04 no archive")}
    job = served.http.post(f"/v1/galleries/{gallery}/imports", files=archive).json()
    assert served.ended_job(job)["state"] == "failed"
    assert figure(served, name) == before + 1
    eventually(lambda: figure(served, 'gmn_jobs{state="running"}') == 0)


def test_every_panel_and_every_alert_reads_a_metric_that_is_served(served) -> None:
    types = re.findall(r"^# TYPE (\S+) (\w+)$", served.http.get("/metrics").text, re.MULTILINE)
    shown = {"up"} | {
        f"{name}{end}"
        for name, kind in types
        for end in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
    }
    rules = yaml.safe_load((DOCKER / "alerts.yml").read_text())["groups"][0]["rules"]
    expressions = [rule["expr"] for rule in rules]
    for path in (DOCKER / "grafana").glob("*.json"):
        panels = json.loads(path.read_text())["panels"]
        expressions += [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(expressions) > 40
    for expression in expressions:
        read = set(re.findall(r"\b(?:gmn_|process_|up\b)\w*", expression))
        assert read, expression
        assert read <= shown, expression


def test_the_process_has_the_standard_names_and_no_series_of_creation_times(served) -> None:
    assert figure(served, "process_resident_memory_bytes") > 1e6
    assert figure(served, "process_start_time_seconds") > 1e9
    shown = served.http.get("/metrics").text
    assert "_created" not in shown
    assert "gmn_process_" not in shown
