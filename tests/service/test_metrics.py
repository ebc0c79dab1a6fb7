"""`/metrics` shows the product: verdicts, jobs, calibrations, the disk, and the record."""

import json
import re
import shutil
from pathlib import Path

import yaml
from prometheus_client import generate_latest

from gmn_camera.figures import Figures, FiguresCollector
from service.commands.processes import METRICS_FOLDER, metrics_folder
from tests.outside import figure
from tests.waiting import eventually

DOCKER = Path(__file__).parents[2] / "docker"


def test_verdicts_are_counted_by_kind(served, gallery, images):
    kinds = ("match", "uncertain", "no_match", "nothing_searched")

    def counts():
        return [figure(served, f'gmn_verdicts_total{{verdict="{kind}"}}') for kind in kinds]

    before = counts()
    for enrolled in ([], [images[0]]):
        if enrolled:
            served.enrolled(gallery, *enrolled)
        verdict = served.query(gallery, images[0]).json()["verdict"]
        assert (verdict == "nothing_searched") == (not enrolled)
        before[kinds.index(verdict)] += 1
        assert counts() == before


def test_the_disk_the_record_and_the_process_have_their_sizes(served, gallery, images, tmp_path):
    assert figure(served, "gmn_disk_bytes") == shutil.disk_usage(tmp_path).total
    assert 0 < figure(served, "gmn_disk_free_bytes") < figure(served, "gmn_disk_bytes")
    pictures = images
    served.enrolled(gallery, *pictures)
    assert figure(served, "gmn_record_bytes") > sum(len(picture) for picture in pictures)
    assert figure(served, "process_resident_memory_bytes") > 1e6
    assert "_created" not in served.http.get("/metrics").text


def test_the_state_of_a_gallerys_thresholds_is_one_of_its_settings(served, gallery):
    name = f'gmn_gallery_calibration{{gallery="{gallery}",state="%s"}}'
    assert figure(served, name % "artefact") == 1
    served.http.patch(f"/v1/galleries/{gallery}", data={"calibration": "off"})
    assert figure(served, name % "off") == 1
    served.http.delete(f"/v1/galleries/{gallery}")
    assert f'gallery="{gallery}"' not in served.http.get("/metrics").text


def test_a_job_that_fails_is_counted(served, gallery):
    name = 'gmn_jobs_ended_total{state="failed"}'
    before = figure(served, name)
    archive = {"archive": ("broken.zip", b"PK\x03\x04 no archive")}
    job = served.http.post(f"/v1/galleries/{gallery}/imports", files=archive).json()
    assert served.ended_job(job)["state"] == "failed"
    # It is counted once the record shows it.
    eventually(lambda: figure(served, name) == before + 1)
    eventually(lambda: figure(served, 'gmn_jobs{state="running"}') == 0)


def test_every_panel_and_every_alert_reads_a_metric_that_is_served(served):
    types = re.findall(r"^# TYPE (\S+) (\w+)$", served.http.get("/metrics").text, re.MULTILINE)
    shown = {
        f"{name}{end}"
        for name, kind in types
        for end in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
    }
    cameras = generate_latest(FiguresCollector(lambda: {"gate": Figures()})).decode()
    shown |= {"up", *re.findall(r"^# TYPE (\S+)", cameras, re.MULTILINE)}
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


def test_two_services_on_a_data_directory_keep_their_metrics_apart(tmp_path):
    killed = tmp_path / METRICS_FOLDER / "killed"
    killed.mkdir(parents=True)
    with metrics_folder(tmp_path) as one:
        (one / "counter_1.db").touch()
        with metrics_folder(tmp_path) as other:
            assert other != one
            assert list(other.iterdir()) == []
        assert (one / "counter_1.db").exists()
        assert not killed.exists()
        assert not other.exists()
    assert not one.exists()
