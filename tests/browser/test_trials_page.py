"""Trials on the watch panel: how far each camera is, and marked alerts."""

import numpy as np
import pytest
from playwright.sync_api import expect

from service.record.values import Sender
from service.watch.tables.traffic import EndedTracks
from service.watch.tables.trials import TRIAL_TRACKS
from tests.browser.conftest import press, violations
from tests.browser.test_watch_page import open_panel

pytestmark = pytest.mark.slow


def end_tracks(people, gallery, camera, tracks, key_id="loopback"):
    ended = {Sender(key_id, camera): EndedTracks(np.array([tracks]))}
    people.watch.traffic.add(people.gallery_id(gallery), "kind", ended)


def test_the_page_says_what_a_trial_is_and_how_far_each_camera_is(tab, watching, armed, people):
    end_tracks(people, armed, "gate", 84)
    end_tracks(people, armed, "door", TRIAL_TRACKS)
    open_panel(tab, watching.base_url, armed)
    shown = tab.locator("#watch-list")
    expect(shown).to_contain_text(
        "On trial, the alerts of a camera show what the forecast is worth"
    )
    # The list ends before the longest trial would.
    ends = shown.locator("dl dd").first.inner_text()
    about = shown.get_by_text("On trial, the alerts of a camera")
    expect(about).to_contain_text(f"or until {ends}.")
    expect(shown).to_contain_text("Trial at gate: 84 of 200 tracks, 0 alerts to review.")
    expect(shown).to_contain_text("Trial at door: over.")
    tab.locator("#alert-here").check()
    people.pass_by(armed, camera="gate")
    card = tab.locator("#alerts .card").first
    expect(card).to_contain_text("Raised during the trial at this camera.")
    expect(shown).to_contain_text("Trial at gate: 84 of 200 tracks, 1 alert to review.")
    end_tracks(people, armed, "gate", 300, key_id="other")
    press(card, "Another person")
    expect(shown).to_contain_text(
        "Trial at gate (key loopback): 84 of 200 tracks, 0 alerts to review."
    )
    expect(shown).to_contain_text("Trial at gate (key other): over.")
    assert violations(tab) == []
    tab.set_viewport_size({"width": 390, "height": 844})
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
