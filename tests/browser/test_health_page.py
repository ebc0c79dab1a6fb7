"""The cameras of the watch panel: who is heard, who is silent, and how a camera says so."""

from datetime import UTC, datetime, timedelta

import httpx2
import pytest
from playwright.sync_api import expect

from service.api_keys import LOCAL_ADMIN
from service.watch.tables.cameras import CameraCounts
from tests.browser.conftest import arm_list, new_gallery, violations
from tests.browser.test_watch_page import open_panel
from tests.service.conftest import serving
from tests.service.watch_places import passersby

pytestmark = pytest.mark.slow
HEALTHY = {"state": "ok", "fps": 10.0, "lag": 0.2}


def test_the_watch_panel_shows_the_cameras_and_alerts_about_silent_ones(
    tab, tiny_artefact, tmp_path, drawn_crops
):
    data_dir = tmp_path / "data"
    with (
        serving(tiny_artefact, data_dir) as url,
        httpx2.Client(base_url=url, timeout=60.0) as http,
        passersby(data_dir) as others,
    ):
        name = new_gallery(http, drawn_crops)
        arm_list(http, name)
        open_panel(tab, url, name)
        cameras = tab.locator("#health")
        expect(cameras).to_contain_text("No camera was heard in the last days.")
        expect(cameras.locator("pre")).to_contain_text("/v1/cameras/gate/heartbeat")
        assert violations(tab) == []

        now = datetime.now(UTC)
        heard_at = now - timedelta(minutes=7)
        others.watch.cameras.note_heartbeat(LOCAL_ADMIN, "yard", HEALTHY, heard_at)
        others.watch.cameras.note_silence(LOCAL_ADMIN, "yard", now - timedelta(minutes=5), now)
        for camera, state in {"door": "no_frames", "gate": "ok"}.items():
            sent = {"state": state, "fps": "10", "lag": "0.2"}
            answer = http.post(f"/v1/cameras/{camera}/heartbeat", data=sent)
            assert answer.status_code == 200, answer.text
        for camera, ahead in {"lane": 1800.0, "porch": -2400.0}.items():
            counts = CameraCounts(now, now, crops=1, tracks=1, clock_ahead=ahead)
            others.watch.cameras.note_sightings(LOCAL_ADMIN, {camera: counts}, now)
        tab.reload()
        rows = cameras.get_by_role("listitem")
        expect(rows).to_have_count(5)
        expect(rows.nth(0)).to_contain_text("yardSilent, last heard 7 minutes ago")
        expect(rows.nth(1)).to_contain_text("doorHeard just now · no frames")
        expect(rows.nth(2)).to_contain_text("no heartbeats · clock 30 min fast: set it right")
        expect(rows.nth(3)).to_contain_text("pictures arrive 40 min late, so nobody is told")
        expect(rows.nth(4)).to_contain_text(
            "gateHeard just now · ok · 10.0 frames a second · 0.2 s behind"
        )
        expect(cameras.locator("summary")).to_have_text("Cameras (1 silent)")
        expect(cameras.locator("pre")).to_be_hidden()
        alert = tab.locator("#alerts > li")
        expect(alert.locator("h3")).to_have_text("The camera yard is silent")
        expect(alert).to_contain_text("The camera 'yard' has sent nothing for 7 minutes; check")
        assert violations(tab) == []
