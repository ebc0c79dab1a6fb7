"""`gmn api METHOD`, against a real service process."""

import inspect
import json
import re
import zipfile
from datetime import datetime

import pytest
import typer

import gmn
from gmn_client import Client
from gmn_client.calls import Method
from tests import forked


@pytest.fixture
def api(gmn):
    return lambda *arguments, **options: gmn("api", *arguments, **options)


@pytest.fixture
def pictures(drawn_crops, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for path, crop in zip(paths, drawn_crops, strict=False):
        path.write_bytes(crop.png)
    return paths


@pytest.mark.promise("client-by-command")
def test_every_method_of_the_client_is_listed_with_the_first_line_of_its_docstring():
    commands = typer.main.get_command(gmn.make_app("api")).commands["api"].commands
    methods = {
        name
        for name, attribute in inspect.getmembers_static(Client)
        if isinstance(attribute, Method) and not name.startswith("_")
    }
    assert set(commands) == methods
    shown = " ".join(re.sub("[│\\s]+", " ", forked.run_gmn("api").stdout).split())
    for name in methods:
        first_line = inspect.getdoc(getattr(Client, name)).splitlines()[0]
        assert f"{name} {first_line.replace('`', '')}" in shown


def test_no_option_of_a_method_has_the_name_of_one_that_every_command_has():
    commands = typer.main.get_command(gmn.make_app("api")).commands["api"].commands
    for name, command in commands.items():
        options = [option for parameter in command.params for option in parameter.opts]
        assert len(options) == len(set(options)), name
    (address,) = [p for p in commands["change_webhook"].params if p.name == "url"]
    assert address.opts == ["--webhook-url"]


def test_the_help_of_a_method_describes_its_arguments():
    shown = forked.run_gmn("api", "create_key", "--help", env={"COLUMNS": "200"}).stdout
    for text in ("Creates an API key", "--expires-days", "days until the key expires"):
        assert text in shown
    assert "Raises" not in shown


def test_a_list_is_printed_line_by_line_and_as_json(api, filled):
    lines = api("identities").splitlines()
    assert [line.split("  ")[:2] for line in lines] == [
        ["identity: 7", "crops: 1"],
        ["identity: 10", "crops: 1"],
    ]
    assert [result["identity"] for result in api("identities", "--json")["results"]] == ["7", "10"]
    (unnamed,) = api("crops", "--unnamed", "--camera", "east", "--json")["results"]
    assert unnamed["identity"] is None
    assert api("crops", "--captured-before", "2001-01-01T00:00:00Z") == ""


def test_an_answer_is_printed_field_by_field_and_its_results_line_by_line(api, filled, gallery):
    assert f"name: {gallery}" in api("gallery").splitlines()
    assert api("gallery", "--json")["crops"] == 3
    (other,) = api("similar", "7", "--limit", "1").splitlines()
    assert other.startswith("identity: 10  probability: 0.")
    crop_id = next(filled.crops()).crop_id
    ranking = api("query_like", crop_id, "--top-k", "2").splitlines()
    assert [line.split("  ")[0] for line in ranking[-2:]] == ["rank: 1", "rank: 2"]


def test_images_are_read_from_files(api, filled, pictures):
    assert api("pairs", *pictures, "--json")["cosine"] < 1.0
    assert len(api("embeddings", *pictures, "--json")["results"]) == 2
    answers = api("query", *pictures, "--mode", "separate", "--top-k", 1, "--json")["results"]
    assert [answer["results"][0]["identity"] for answer in answers] == ["7", "10"]


def test_objects_are_given_as_json(api, filled, pictures):
    box = '{"x": 0, "y": 0, "width": 32, "height": 64, "identity": "Ann"}'
    labels = ("--metadata", '{"shift": "night"}')
    (enrolled,) = api("enroll_frame", pictures[0], box, *labels, "--json")["results"]
    assert enrolled["identity"] == "Ann"
    assert filled.crop(enrolled["crop_id"]).metadata == {"shift": "night"}
    found = api("query", pictures[0], "--metadata", '{"shift": "night"}', "--json")["results"]
    assert [crop["crop_id"] for crop in found] == [enrolled["crop_id"]]
    embedded = filled.embeddings(pictures[0])
    vector = embedded.results[0].embedding
    where = ("--url", filled.url, "--gallery", filled.gallery_name, "--json", "--")
    numbers = [str(number) for number in vector]
    asked = forked.run_gmn("api", "query_vector", *where, *numbers, embedded.embedding_fingerprint)
    assert json.loads(asked.stdout)["results"][0]["cosine"] > 0.999


def test_sightings_of_a_person_who_stays_are_sent_with_a_switch(api, filled, pictures):
    labels = ("--camera", "gate", "--track", "17")
    assert api("sight", *pictures, *labels, "--still", "--json")["accepted"] == 2
    box = '{"x": 0, "y": 0, "width": 32, "height": 64, "still": true}'
    assert api("sight_frame", pictures[0], box, *labels, "--json")["accepted"] == 1


def test_only_the_given_labels_of_a_crop_change_and_an_empty_one_is_unknown(api, filled):
    crop_id = next(filled.crops(identity="7")).crop_id
    moment = "2026-03-01T10:30:00+01:00"
    api("change_crop", crop_id, "--identity", "", "--captured-at", moment)
    crop = filled.crop(crop_id)
    assert (crop.identity, crop.camera) == (None, "east")
    assert crop.captured_at == datetime.fromisoformat(moment)
    api("change_crop", crop_id, "--captured-at", "")
    assert filled.crop(crop_id).captured_at is None


def test_a_text_is_in_quotes_if_a_part_of_it_is_not_printed(api, filled):
    persian = "علی\u200cرضا"
    crop_id = next(filled.crops(identity="7")).crop_id
    filled.change_crop(crop_id, identity=persian)
    assert f"identity: {persian}\n" in api("crop", crop_id)
    case_id = filled.create_case("Bag", notes="seen\nat gate 3").case_id
    assert r'notes: "seen\nat gate 3"' in api("case", case_id)


def test_a_picture_and_a_case_are_written_to_a_file(api, filled, pictures, tmp_path):
    crop = next(filled.crops())
    api("image", crop.crop_id, "--out", tmp_path / "crop.png")
    assert (tmp_path / "crop.png").read_bytes() == filled.image(crop.crop_id)
    query_id = filled.query(pictures[0], keep=True, keep_picture=True).query_id
    case_id = api("create_case", "Bag at gate 3", "--notes", "seen", "--json")["case_id"]
    api("hold_search", case_id, query_id, "--note", "same coat")
    reviewed = api("review", query_id, crop.crop_id, "--decision", "confirmed", "--json")
    assert reviewed["confirmed"] == 1
    api("export_case", case_id, "--out", tmp_path / "case.zip")
    page = zipfile.ZipFile(tmp_path / "case.zip").read("index.html").decode()
    assert "Bag at gate 3" in page
    nowhere = tmp_path / "nowhere" / "case.zip"
    said = api("export_case", case_id, "--out", nowhere, status=1)
    assert "No such file or directory" in said
    assert str(nowhere) in said


def test_an_export_is_made_listed_downloaded_and_deleted(api, filled, tmp_path):
    made = api("make_export", "--json")
    assert f"export_id: {made['export_id']}" in api("exports")
    file = tmp_path / "lobby.zip"
    assert api("download_export", made["export_id"], str(file)) == ""
    assert file.stat().st_size == made["bytes"]
    assert [path.name for path in tmp_path.iterdir()] == ["lobby.zip"]
    job = filled.wait_for_job(filled.import_archive(file).job_id)
    assert (job.progress.landed, job.progress.duplicates) == (0, made["crops"])
    assert api("delete_export", made["export_id"]) == ""
    assert api("exports") == ""


def test_without_a_gallery_the_jobs_of_every_gallery_are_listed(api, filled, service_url):
    job_id = api("group_unnamed", "--json")["job_id"]
    assert api("wait_for_job", job_id, "--json")["state"] == "done"
    assert f"job_id: {job_id}" in api("watch_job", job_id).splitlines()[-1]
    assert [job["job_id"] for job in api("jobs", "--json")["results"]] == [job_id]
    everywhere = forked.run_gmn("api", "jobs", "--url", service_url, "--json")
    assert job_id in [job["job_id"] for job in json.loads(everywhere.stdout)["results"]]


def test_an_error_is_that_of_the_call_and_ends_with_its_status(api, filled, gallery):
    assert f"gallery '{gallery}' holds no crop 'nobody'" in api("crop", "nobody", status=2)
    assert "captured_after" in api("crops", "--captured-after", "yesterday", status=2)
    assert "metadata" in api("query_like", "nobody", "--metadata", "shift=night", status=2)
    assert api("ready") == "answer: true\n"
    nowhere = forked.run_gmn("api", "ready", "--url", "http://127.0.0.1:9")
    assert (nowhere.returncode, nowhere.stdout) == (1, "answer: false\n")
