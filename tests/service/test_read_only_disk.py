"""A disk that becomes read-only: nothing is stored, searched or deleted without a trace."""

import pytest

from tests.outside import audit_lines, crop_ids, problem
from tests.service.small_disk import failing_disk
from tests.waiting import eventually

pytestmark = pytest.mark.promise("audit-lines")

URL = "/v1/galleries/default"
REFUSED = (507, "storage_failed")


def test_on_a_disk_that_became_read_only_every_write_and_search_is_507_and_views_soon(
    start, tmp_path, drawn_crops
):
    with failing_disk(tmp_path / "disk") as disk:
        data_dir = disk.path / "data"
        served = start(data_dir, reserved_disk_bytes=0)
        http = served.http
        image = drawn_crops[0].png
        crop_id, *_ = served.fill("default", drawn_crops[:2], identity="ann")
        served.export("default")
        (export,) = served.results(f"{URL}/exports")
        disk.fail()
        for answer in (
            served.query("default", image),
            served.query("default", image, keep="true"),
            http.get(f"{URL}/similar?identity=ann"),
            served.enroll("default", drawn_crops[2].png),
            http.delete(f"{URL}/crops/{crop_id}"),
            http.delete(f"{URL}/identities/ann"),
            http.post(f"{URL}/exports"),
            http.delete(f"{URL}/exports/{export['export_id']}"),
            http.patch(URL, data={"retention_days": "3"}),
            http.post("/v1/galleries", data={"name": "new"}),
            http.post("/v1/keys", data={"scopes": "query"}),
            http.post(f"{URL}/cases", data={"name": "theft"}),
            http.post(f"{URL}/groups"),
            http.post(f"{URL}/imports", files={"archive": ("a.zip", b"PK\5\6" + bytes(18))}),
        ):
            assert problem(answer) == REFUSED, answer.request
        # Lines of views wait for a moment: the disk may recover.
        view = f"{URL}/crops/{crop_id}/image"
        eventually(lambda: http.get(view).status_code == 507)
        for path in (view, f"{URL}/crops", f"{URL}/crops/{crop_id}", f"{URL}/identities"):
            assert problem(http.get(path)) == REFUSED
        ready = served.read("/readyz")
        assert ready["audit_log"] == "unavailable"
        assert http.get("/livez").status_code == 200
        assert "query" not in {line["event"] for line in audit_lines(data_dir)}
        served.kill()


def test_views_and_searches_wait_until_their_lines_can_be_written_again(start, tmp_path, images):
    served = start(tmp_path)
    (crop_id,) = served.enrolled("default", images[0])
    view = f"{URL}/crops/{crop_id}/image"
    shown = []

    def answers(status):
        answer = served.http.get(view)
        shown.append(answer.status_code == 200)
        return answer.status_code == status

    lock = tmp_path / "audit.lock"
    lock.unlink()
    lock.mkdir()
    eventually(lambda: answers(507))
    assert problem(served.query("default", images[0])) == REFUSED
    assert problem(served.http.get(f"{URL}/crops")) == REFUSED
    assert served.read("/readyz")["audit_log"] == "unavailable"
    lock.rmdir()
    eventually(lambda: answers(200))
    assert served.read("/readyz")["audit_log"] == "ready"
    assert crop_ids(served.query("default", images[0])) == [crop_id]
    assert served.stop() == 0
    lines = [line for line in audit_lines(tmp_path) if line["event"] == "view"]
    assert len(lines) == sum(shown)
