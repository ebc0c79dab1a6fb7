"""A real browser before a real served process; skips where there is no browser."""

import contextlib
import re
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest

from demo.story import draw_cast
from tests.conftest import draw_crop
from tests.outside import browser_program
from tests.service.conftest import files, serving
from tests.service.http.conftest import make_key
from tests.service.watch_places import passersby, settings

CHROMIUM = browser_program()
TIMEOUT_MS = 30_000
PNG = {"name": "person.png", "mimeType": "image/png"}
# axe leaves the rule about small targets out unless it is asked for.
# These two rules are off in axe unless they are asked for.
RULES = ("target-size", "label-content-name-mismatch")
AXE = {
    "resultTypes": ["violations"],
    "rules": {rule: {"enabled": True} for rule in RULES},
}
# Windows of a desk, a laptop and a phone.
SIZES = [(1440, 900), (1280, 720), (390, 844)]
# It is the first of the drawn crops.
FIRST = draw_crop(0, 0, 0)
SEED = 1
# People of the drawn cast who are on a watch list.
NAMES = {"d0-0000": "Anna Roth", "d0-0001": "Ben Okafor", "d0-0002": "Carla Diaz"}


# The scope is a module and not the session: while the driver is there, nothing else in this
# process can run an event loop.
@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium-headless-shell is not installed")
    # As long as every other wait: the machine may be busy.
    playwright.expect.set_options(timeout=TIMEOUT_MS)
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=CHROMIUM)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def address(browser, tiny_artefact, tmp_path_factory):
    place = tmp_path_factory.mktemp("page")
    with serving(tiny_artefact, place / "data") as url:
        yield url


@pytest.fixture(scope="module")
def keyed(browser, tiny_artefact, tmp_path_factory):
    """Return the address of a service that asks for keys, and one to query and enrol with."""
    place = tmp_path_factory.mktemp("keyed")
    key = make_key(place / "data", "--scope", "query,enroll")
    with serving(tiny_artefact, place / "data") as url:
        yield url, key


@pytest.fixture
def http(address):
    with httpx2.Client(base_url=address, timeout=60.0) as client:
        yield client


@pytest.fixture
def gallery(http, drawn_crops):
    return new_gallery(http, drawn_crops)


@contextlib.contextmanager
def new_tab(browser):
    """Yield a tab, and a list of what goes wrong in a script or against the page's policy."""
    viewport = {"width": 1280, "height": 900}
    context = browser.new_context(viewport=viewport, locale="en-US", timezone_id="UTC")
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console",
        lambda said: wrong.append(said.text) if "Security Policy" in said.text else None,
    )
    yield page, wrong
    context.close()


@pytest.fixture
def tab(browser):
    """Return a tab on which nothing may go wrong in a script or against the page's policy."""
    with new_tab(browser) as (page, wrong):
        yield page
    assert wrong == []


@pytest.fixture
def page(tab, address, gallery):
    tab.goto(f"{address}/#{gallery}/search")
    tab.wait_for_selector("#state .dot.ready")
    return tab


@pytest.fixture
def requests(page):
    """Return the list of the calls of the page, by the end of their address."""
    sent = []
    page.on("request", lambda request: sent.append(request.url.rpartition("/")[2]))
    return sent


@pytest.fixture(scope="module")
def cast():
    return draw_cast("synthetic", SEED, len(NAMES), 12, 4)


@pytest.fixture(scope="module")
def shop(browser, tmp_path_factory):
    """Serve the shipped artefact for small machines, with nobody enrolled."""
    place = tmp_path_factory.mktemp("shop")
    options = {"webhook_private": "true"}
    with (
        serving(Path("small"), place / "data", **options) as url,
        httpx2.Client(base_url=url, timeout=60.0) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("watched") / "data"


@pytest.fixture(scope="module")
def watching(
    browser,
    tiny_artefact,
    place,
):
    options = {"webhook_private": "true"}
    with (
        serving(tiny_artefact, place, **options) as url,
        httpx2.Client(base_url=url, timeout=60.0) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def people(watching, place):
    with passersby(place) as found:
        yield found


@pytest.fixture
def armed(watching, drawn_crops):
    name = new_gallery(watching, drawn_crops)
    arm_list(watching, name)
    return name


def arm_list(http, gallery, **more):
    fields = settings(**more)
    path = f"/v1/galleries/{gallery}/watch"
    proposal = http.put(path, data=fields).json()
    answer = http.put(path, data=fields | {"confirm": proposal["confirm"]})
    assert answer.status_code == 200, answer.text


def new_gallery(http, crops):
    name = f"g{uuid4().hex[:8]}"
    assert http.post("/v1/galleries", data={"name": name}).status_code == 201
    labels = {
        "identity": [crop.identity for crop in crops],
        "camera": [crop.camera for crop in crops],
    }
    images = files(*(crop.png for crop in crops))
    answer = http.post(f"/v1/galleries/{name}/crops", files=images, data=labels)
    assert answer.status_code == 201, answer.text
    return name


def at_each_size(page):
    """Yield the sizes of the windows after the page has each; the last one is a phone's."""
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        yield width, height


def in_both_schemes(page):
    """Yield the colour schemes after the page has each."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        yield scheme


def violations(page):
    """Return what axe finds against the page as it is, by rule and element."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page, options=AXE).response["violations"]
    return [f"{rule['id']}: {node['target']}" for rule in found for node in rule["nodes"]]


def covered(locator):
    """Return whether something else is in front of the middle of an element."""
    return locator.evaluate(
        """element => {
            const { x, y, width, height } = element.getBoundingClientRect();
            const front = document.elementFromPoint(x + width / 2, y + height / 2);
            return !element.contains(front);
        }"""
    )


def png(content):
    return PNG | {"buffer": content}


def drop(page, selector, content):
    transfer = page.evaluate_handle(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "person.png"));
            return transfer;
        }""",
        list(content),
    )
    page.dispatch_event(selector, "drop", {"dataTransfer": transfer})


def search_for(page, content=FIRST):
    with page.expect_response(re.compile("/queries$")):
        page.set_input_files("#query .drop input", png(content))
    page.wait_for_selector(".banner")


def ask(http, gallery, content, **fields):
    path = f"/v1/galleries/{gallery}/queries"
    return http.post(path, files=files(content), data=fields).json()


def open_settings(page):
    page.locator("#more-settings summary").click()


def results(http, path, **asked):
    return http.get(path, params=asked or None).json()["results"]


def press(page, name, exact=False):
    """Click the button of a name, or of one that contains it."""
    page.get_by_role("button", name=name, exact=exact).click()


def follow(page, name, exact=False):
    """Click the link of a name, or of one that contains it."""
    page.get_by_role("link", name=name, exact=exact).click()


def boxes_of(page):
    """Return the boxes in the dialog of the people on a photo."""
    return page.get_by_role("dialog", name="Draw boxes").locator(".stage .box")


def confirm(page, action):
    page.locator("dialog.question").get_by_role("button", name=action, exact=True).click()


def fill_in(page, label, text, action):
    page.locator("dialog.question").get_by_label(label).fill(text)
    confirm(page, action)
