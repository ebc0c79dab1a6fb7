"""The pages of `gmn evaluate` and `gmn report` in a real browser."""

import csv

from tests.conftest import draw_crops
from training.commands.evaluate import evaluate, report


def test_no_table_is_cut_off_on_a_page_of_1280_pixels(browser, tiny_artefact, tmp_path):
    for number, crop in enumerate(crops := draw_crops()):
        (tmp_path / f"{number}.png").write_bytes(crop.png)
    with (tmp_path / "people.csv").open("w", newline="") as file:
        rows = [(f"{number}.png", crop.identity, crop.camera) for number, crop in enumerate(crops)]
        csv.writer(file).writerows([("path", "identity", "camera"), *rows])
    data = [f"manifest:{tmp_path}/people.csv"]
    out = tmp_path / "page"
    scorings = "cosine,mnet,k_reciprocal"
    evaluate(str(tiny_artefact), data, scoring=scorings, out=out)
    report([f"first={out}", f"second={out}"], out=tmp_path / "compared")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    for place, fewest in ((out, 4), (tmp_path / "compared", 1)):
        page.goto(f"file://{place}/report.html")
        tables = page.eval_on_selector_all(
            ".wide",
            "all => all.map(one => [one.innerText, one.scrollWidth - one.clientWidth])",
        )
        assert [text for text, hidden in tables if hidden > 0] == []
        assert len(tables) >= fewest
    page.close()
