"""MSFL's recipes: the paper's settings, the rows of its tables, and crops cut from larger ones."""

import numpy as np
import pytest

from model.problems import InputProblem
from training.augmentation import Augmenter
from training.batches import CropCache
from training.cost import embedder_cost
from training.datasets.drawn import draw_people
from training.papers import PaperRow, paper_tables, read_table
from training.recipe import Recipe, read_recipe

# They take part where teachers are named.
DISTILLED = ("distilled_feature", "distilled_relation")
ROWS = [
    pytest.param(row, id=f"{table.name} {row.name}")
    for table in paper_tables().values()
    for row in table.rows
]


def test_the_papers_recipe_is_the_papers() -> None:
    recipe = read_recipe("msfl-msgr-r50")
    assert (recipe.embedder.backbone, recipe.embedder.last_stride) == ("resnet50", 2)
    assert (recipe.sampling.identities, recipe.sampling.images) == (32, 4)
    assert recipe.sampling.order.name == "identities"
    assert recipe.augmentation.resize == (288, 144)
    assert (recipe.preprocessing.height, recipe.preprocessing.width) == (256, 128)
    assert recipe.optimisation.schedule.milestones == (40, 70)
    assert (recipe.optimisation.epochs, recipe.optimisation.warm_up_epochs) == (120, 0)
    losses = recipe.losses.on
    assert losses.keys() == {"identity", "triplet", *DISTILLED, "msgr"}
    assert losses["identity"].label_smoothing == 0
    regulariser = losses["msgr"]
    assert (regulariser.weight, regulariser.stages, regulariser.norm) == (1e-2, (1, 2), 2)


def test_the_regulariser_is_off_where_nobody_asked_for_it() -> None:
    assert "msgr" not in read_recipe("gmn-r50").losses.on


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_papers_is_a_recipe_of_its_own_at_the_cost_it_reports(
    row: PaperRow,
) -> None:
    recipe = row.resolved()
    stored = recipe.model_dump(mode="json")
    if row.figures:
        for table in paper_tables().values():
            alike = [other for other in table.rows if other.scoring == row.scoring]
            if row in alike:
                assert [other for other in alike if other.is_of(stored)] == [row]
    if row.gflops is not None:
        cost = embedder_cost(recipe.embedder, recipe.preprocessing)
        assert cost.multiply_adds / 1e9 == pytest.approx(row.gflops, abs=0.1)


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("embedder.multiscale=none", "baseline"),
        ("embedder.multiscale.msff=false", "csip"),
        ("losses.msgr.weight=1e-2", "msgr"),
    ],
)
def test_the_small_recipes_rows_are_one_setting_each(setting: str, part: str) -> None:
    recipe = read_recipe("small-msfl", [setting])
    multiscale = recipe.embedder.multiscale
    found = {
        "baseline": multiscale is None,
        "csip": multiscale is not None and multiscale.csip and not multiscale.msff,
        "msgr": "msgr" in recipe.losses.on,
    }
    assert [name for name, is_it in found.items() if is_it] == [part]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("losses.msgr.stages=[5]", r"stages\.0: .*less than or equal to 4, got 5"),
        ("losses.msgr.norm=3", r"norm: .*1, 2 or 'inf'"),
        ("losses.msgr.exponent=0.5", "greater than or equal to 1"),
        ("embedder.multiscale.stages=[4, 1]", "from shallow to deep"),
        ("embedder.pooling=gem", r"set embedder\.pooling=average$"),
        ("augmentation.resize=[200, 144]", "as a whole: .*smaller than the input.*none$"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_the_remedy(setting: str, message: str) -> None:
    with pytest.raises(InputProblem, match=message):
        read_recipe("msfl-msgr-r50", [setting])


def test_a_setting_of_a_section_that_is_none_is_refused_and_left_out_of_a_papers_row() -> None:
    setting = "embedder.multiscale.channels=64"
    with pytest.raises(InputProblem, match=r"multiscale is 'none'.*multiscale=\{channels=64\}'"):
        read_recipe("small-msfl", ["embedder.multiscale=none", setting])
    for row in read_table("small/msfl").rows:
        own = row.resolved().embedder.multiscale
        changed = row.resolved([setting])
        assert (own is None) == (changed.embedder.multiscale is None)
        assert own is None or changed.embedder.multiscale.channels == 64


def test_several_settings_of_a_section_leave_its_others_as_they_are() -> None:
    recipe = read_recipe("small-msfl", ["embedder.multiscale={csip=false, msff=false}"])
    assert recipe.embedder.multiscale is not None
    assert recipe.embedder.multiscale.channels == 128
    assert not recipe.embedder.multiscale.csip


def test_infinity_may_be_written_as_toml_writes_it_and_is_kept_by_name() -> None:
    setting = "losses.msgr.norm=inf"
    stored = read_recipe("msfl-msgr-r50", [setting]).model_dump_json()
    assert Recipe.model_validate_json(stored).losses.on["msgr"].norm == "inf"


def test_a_training_crop_is_cut_at_random_out_of_a_larger_one() -> None:
    settings = ["augmentation.flip=0", "augmentation.resize=[144, 72]"]
    recipe = read_recipe("small-msfl", settings)
    record = draw_people(1, 1, 2, cameras_per_domain=2, crops_per_camera=1).records[0]
    larger = CropCache([record], recipe.decoded, 100).crop(0)
    assert larger.shape == (144, 72, 3)
    size = recipe.preprocessing
    augmenter = Augmenter(recipe.augmentation, size)
    cut = augmenter.cut([larger] * 8, augmenter.draw(count=8, seed=3))
    assert cut.shape == (8, 128, 64, 3)
    windows = np.lib.stride_tricks.sliding_window_view(larger, (128, 64, 3))[:, :, 0]
    found = [np.argwhere((windows == video.numpy()).all(axis=(2, 3, 4))) for video in cut]
    assert all(len(places) for places in found)
    assert len({tuple(places[0]) for places in found}) > 1
