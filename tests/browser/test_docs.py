"""`/docs` in a browser: every call that takes files, from "Try it out" to its answer."""

import re

import pytest
from PIL import Image

from tests.browser.conftest import new_tab, press, results
from tests.outside import encoded, zip_of_crops

pytestmark = pytest.mark.slow

OPTIONAL_FIELDS = {
    "create_gallery": ("name", "retention_days", "calibration"),
    "change_gallery": ("retention_days", "calibration"),
    "enroll_crops": ("identity", "camera", "captured_at", "external_id", "metadata"),
    "query_gallery": ("crop_id", "camera", "cameras", "captured_after", "captured_before"),
    "import_crops": ("folder", "manifest", "identity", "camera"),
    "rename_identity": ("new_identity",),
}
TAKE_FILES = ("enroll_crops", "query_gallery", "compare_pair")


class Docs:
    """The page in one tab of all tests, as it takes many seconds to load.

    Attributes:
        tab: the tab.
        calls: the operations that were opened since the page was loaded. A call keeps what was
            typed, so that opening one of them again loads the page anew.
    """

    def __init__(self, tab, address):
        self.tab = tab
        self.calls = set()
        self._address = address

    def load(self):
        self.tab.goto(f"{self._address}/docs")
        self.tab.wait_for_selector(".opblock")
        self.calls.clear()

    def find_call(self, operation):
        """Return an operation's part of the page, as a loaded page shows it."""
        if operation in self.calls:
            self.load()
        self.calls.add(operation)
        return self.tab.locator(f"[id$='-{operation}']")


@pytest.fixture(scope="module")
def loaded(browser, address):
    with new_tab(browser) as (tab, wrong):
        docs = Docs(tab, address)
        docs.load()
        yield docs, wrong


@pytest.fixture
def docs(loaded):
    """Yield the page, on which nothing may go wrong."""
    docs, wrong = loaded
    yield docs
    assert wrong == []


@pytest.fixture(scope="module")
def opened(loaded):
    """Return calls that are open in the page, by operation, and what the console said meanwhile."""
    docs, _ = loaded
    docs.load()
    said = []

    def listen(message):
        said.append(message)

    docs.tab.on("console", listen)
    operations = dict.fromkeys((*TAKE_FILES, *OPTIONAL_FIELDS))
    calls = {operation: open_call(docs, operation) for operation in operations}
    docs.tab.remove_listener("console", listen)
    return calls, said


def open_call(docs, operation, **path):
    """Open a call, press "Try it out" and fill in the parameters of its path."""
    call = docs.find_call(operation)
    call.locator(".opblock-summary-control").click()
    press(call, "Try it out")
    for name, value in path.items():
        call.locator(f"tr[data-param-name='{name}'] input").fill(value)
    return call


def choose(call, field, *files, name="crop.png"):
    pickers = call.locator(f"tr[data-property-name='{field}'] input[type=file]")
    assert pickers.count() == len(files)
    for picker, content in zip(pickers.all(), files, strict=True):
        picker.set_input_files(
            {"name": name, "mimeType": "application/octet-stream", "buffer": content}
        )


def execute(call):
    with call.page.expect_response(re.compile("/v1/")) as answered:
        press(call, "Execute")
    shown = call.locator(".live-responses-table .response .response-col_status")
    assert shown.inner_text().startswith(str(answered.value.status))
    return answered.value


def new_picture():
    return encoded(Image.effect_noise((48, 96), 40).convert("RGB"))


@pytest.mark.parametrize(
    ("operation", "files", "status", "field"),
    [
        ("query_gallery", 1, 200, "verdict"),
        ("compare_pair", 2, 200, "verdict"),
        ("embed_images", 1, 200, "results"),
        ("import_crops", 1, 202, "job_id"),
    ],
)
def test_chosen_files_are_sent(docs, gallery, drawn_crops, operation, files, status, field):
    path = {"gallery": gallery} if operation in ("query_gallery", "import_crops") else {}
    call = open_call(docs, operation, **path)
    if operation == "import_crops":
        choose(call, "archive", zip_of_crops(drawn_crops[:1]), name="people.zip")
    else:
        choose(call, "images", *(crop.png for crop in drawn_crops[:files]))
    answer = execute(call)
    assert answer.status == status
    assert field in answer.json()


def test_a_query_by_a_crop_is_answered_though_no_file_was_chosen(docs, http, gallery):
    crop = results(http, f"/v1/galleries/{gallery}/crops")[0]
    call = open_call(docs, "query_gallery", gallery=gallery)
    asking = call.locator("tr[data-property-name='crop_id']")
    press(asking, "Add")
    asking.locator("input[type=text]").fill(crop["crop_id"])
    answer = execute(call)
    assert answer.status == 200, answer.text()


def test_a_chosen_file_is_enrolled_with_what_was_typed_and_nothing_else(docs, http, gallery):
    call = open_call(docs, "enroll_crops", gallery=gallery)
    choose(call, "images", new_picture())
    identity = call.locator("tr[data-property-name='identity']")
    press(identity, "Add")
    assert identity.locator("input[type=text]").input_value() == ""
    identity.locator("input[type=text]").fill("Ann")
    assert execute(call).status == 201
    (crop,) = results(http, f"/v1/galleries/{gallery}/crops?identity=Ann")
    assert [crop[name] for name in ("camera", "captured_at", "external_id", "metadata")] == (
        [None] * 4
    )


def test_crops_are_counted_by_one_filter_while_the_others_stay_empty(docs, gallery):
    call = open_call(docs, "delete_crops", gallery=gallery)
    call.locator("tr[data-property-name='camera'] input[type=text]").fill("west")
    call.locator("tr[data-property-name='dry_run'] select").select_option("true")
    answer = execute(call)
    assert answer.status == 200, answer.text()
    assert answer.json()["matched"] > 0
    assert answer.json()["removed"] == 0


def test_the_first_execute_of_a_call_asks_about_the_gallery_default(docs):
    assert execute(open_call(docs, "read_gallery")).json()["name"] == "default"
    assert (
        "Reads the description of a gallery"
        in docs.tab.locator("#operations-tag-galleries").locator("..").inner_text()
    )


def test_opening_a_call_that_takes_files_writes_no_warning(docs, opened):
    calls, said = opened
    for operation in TAKE_FILES:
        assert calls[operation].locator("input[type=file]").count() > 0
    assert [message.text for message in said if message.type != "log"] == []


def test_no_field_of_a_form_begins_with_made_up_text(docs, opened):
    calls, _ = opened
    for operation, fields in OPTIONAL_FIELDS.items():
        for name in fields:
            row = calls[operation].locator(f"tr[data-property-name='{name}']")
            assert row.count() == 1, f"{operation}: {name}"
            texts = row.locator("input[type=text], textarea, select").all()
            assert [text.input_value() for text in texts] in ([""], []), f"{operation}: {name}"
