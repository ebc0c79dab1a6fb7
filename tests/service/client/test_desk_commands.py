"""`gmn query --keep`, `searches`, `review` and `case`, against a real service process."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from gmn_client import Client, Image
from tests.service.client.conftest import run_gmn


def test_a_search_is_kept_reviewed_and_exported_by_commands(
    service_url: str, gallery: str, drawn_crops, tmp_path: Path
) -> None:
    (tmp_path / "ann.png").write_bytes(drawn_crops[0].png)

    def gmn(*asked: object) -> str:
        finished = run_gmn(service_url, gallery, *map(str, asked))
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    with Client(service_url, gallery=gallery) as client:
        client.enroll([Image(one.png, identity=one.identity) for one in drawn_crops[:8]])
        answer = json.loads(gmn("query", tmp_path / "ann.png", "--keep", "--json"))
        query_id = answer["query_id"]
        crop_id = answer["results"][0]["crop_id"]
        assert query_id in gmn("searches", "list")
        said = gmn("review", query_id, "confirmed", crop_id, "--identity", "Ann", "--enroll")
        assert said.startswith("1 confirmed, 0 rejected, enrolled as ")
        shown = gmn("searches", "show", query_id)
        assert "Ann" in shown
        assert "confirmed" in shown
        case_id = gmn("case", "create", "Bag at gate 3").split()[-1]
        assert "holds 1 searches" in gmn("case", "add", case_id, query_id, "--note", "same coat")
        assert client.case(case_id).queries[0].note == "same coat"
        assert "Bag at gate 3" in gmn("case", "list")
        gmn("case", "export", case_id, "--out", tmp_path / "case.zip")
        assert "Ann" in zipfile.ZipFile(tmp_path / "case.zip").read("index.html").decode()
        assert "Kept searches removed: 1" in gmn("forget", "Ann", "--yes")


def test_a_search_and_a_case_are_deleted_by_commands(
    service_url: str, gallery: str, drawn_crops
) -> None:
    with Client(service_url, gallery=gallery) as client:
        client.enroll([Image(drawn_crops[0].png)])
        kept = [client.query(drawn_crops[0].png, keep=True).query_id or "" for _ in range(2)]
        case_id = client.create_case("Bag at gate 3").case_id
        client.hold_search(case_id, kept[0])
        for asked, shown in (
            (("searches", "delete", kept[1]), f"Search {kept[1]} is deleted"),
            (("case", "delete", case_id, "--yes"), "deleted with 1 searches"),
            (("searches", "list"), "keeps no search"),
            (("case", "list"), "There is no case"),
        ):
            assert shown in run_gmn(service_url, gallery, *asked).stdout
