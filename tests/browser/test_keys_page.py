"""API keys on the page: an administrator makes, lists and revokes them."""

import re

import httpx2
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import confirm, violations
from tests.outside import bearer
from tests.service.conftest import serving
from tests.waiting import eventually

pytestmark = pytest.mark.slow
TEXT = re.compile(r"gmn_[0-9a-f]{12}_[\w-]{43}")


@pytest.fixture
def url(browser, tiny_artefact, tmp_path):
    with serving(tiny_artefact, tmp_path / "data") as address:
        yield address


def status(url, key):
    return httpx2.get(f"{url}/v1/model", headers=bearer(key)).status_code


def shown_key(page):
    """Return the key that is shown this once, and close the dialog."""
    dialog = page.get_by_role("dialog", name="New API key")
    expect(dialog).to_contain_text("It is shown this once")
    key = dialog.get_by_label("API key").input_value()
    assert TEXT.fullmatch(key)
    dialog.get_by_role("button", name="Copy").press("Enter")
    expect(dialog.get_by_role("status")).to_have_text(re.compile("Copied|Ctrl"))
    # A slip of the hand does not lose it.
    page.keyboard.press("Escape")
    assert violations(page) == []
    dialog.get_by_role("button", name="Close").press("Enter")
    expect(dialog).to_have_count(0)
    eventually(lambda: key not in page.content())
    return key


def test_keys_are_made_shown_once_listed_and_revoked(tab, url):
    tab.emulate_media(color_scheme="dark")
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.goto(f"{url}/#default/galleries")
    form = tab.locator("#new-key")
    listed = tab.locator("#api-keys li")
    tab.get_by_text("No key yet: every program on this machine may do everything.").wait_for()
    assert form.get_by_label("do everything").is_checked()
    assert form.get_by_label("Expires in days").input_value() == ""
    form.get_by_label("do everything").press("Space")
    form.get_by_role("button").press("Enter")
    tab.get_by_role("alert").filter(has_text="scope admin for every gallery").wait_for()
    form.get_by_label("do everything").press("Space")
    form.get_by_label("Note").fill("root")
    form.get_by_label("Note").press("Enter")
    tab.get_by_text("from now on every call needs one").wait_for()
    root = shown_key(tab)
    expect(listed).to_have_count(1)
    expect(listed.first).to_contain_text("the key of this page")
    assert (status(url, root), httpx2.get(f"{url}/v1/model").status_code) == (200, 401)

    form.get_by_label("Note").fill("front desk")
    form.get_by_label("Gallery").select_option("default")
    form.get_by_label("Requests a minute").fill("60")
    form.get_by_role("button").press("Enter")
    desk = shown_key(tab)
    expect(listed).to_have_count(2)
    expect(listed.nth(1)).to_contain_text("query · default · 60 requests a minute · expires")
    assert violations(tab) == []
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    kept = httpx2.get(f"{url}/v1/keys", headers=bearer(root)).json()["results"][1]
    assert (kept["scopes"], kept["gallery"], kept["rate"]) == (["query"], "default", 60)
    assert status(url, desk) == 200

    tab.get_by_role("button", name="Revoke… front desk").press("Enter")
    confirm(tab, "Revoke")
    expect(listed).to_have_count(1)
    assert status(url, desk) == 401
    tab.get_by_role("button", name="Revoke… root").press("Enter")
    tab.get_by_text("This page uses it").wait_for()
    confirm(tab, "Revoke")
    tab.get_by_role("alert").filter(has_text="no valid key would have").wait_for()
    assert status(url, root) == 200


def test_a_key_that_is_no_administrators_sees_no_keys(tab, keyed):
    url, key = keyed
    tab.goto(f"{url}/#default/galleries")
    tab.get_by_role("textbox", name="API key").fill(key)
    # The page asked once without a key, and that answer may still be on its way.
    with tab.expect_response(
        lambda answer: answer.url.endswith("/v1/keys") and answer.status != 401
    ) as answered:
        confirm(tab, "Use this key")
    assert answered.value.status == 403
    expect(tab.locator("#gallery-name")).to_have_text("default")
    expect(tab.locator("#api-keys")).to_be_hidden()
    expect(tab.locator("#new-key")).to_be_hidden()
