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
        query_id, crop_id = answer["query_id"], answer["results"][0]["crop_id"]
        assert query_id in gmn("searches", "list")
        said = gmn("review", query_id, "confirmed", crop_id, "--identity", "Ann", "--enroll")
        assert said.startswith("1 confirmed, 0 rejected, enrolled as ")
        shown = gmn("searches", "show", query_id)
        assert "Ann" in shown
        assert "confirmed" in shown
        case_id = client.create_case("Bag at gate 3").case_id
        client.hold_search(case_id, query_id)
        assert "Bag at gate 3" in gmn("case", "list")
        gmn("case", "export", case_id, "--out", tmp_path / "case.zip")
        assert "Ann" in zipfile.ZipFile(tmp_path / "case.zip").read("index.html").decode()
        assert "Kept searches removed: 1" in gmn("forget", "Ann", "--yes")
