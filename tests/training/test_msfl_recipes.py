"""MSFL's recipes: the paper's settings, the rows of its tables, and crops cut from larger ones."""

import pytest

from model.problems import InputProblem
from training.cost import embedder_cost
from training.papers import paper_tables, read_table
from training.recipe import read_recipe

# They take part where teachers are named.
DISTILLED = ("distilled_feature", "distilled_relation")
ROWS = [
    pytest.param(row, id=f"{table.name} {row.name}")
    for table in paper_tables().values()
    for row in table.rows
]


def test_the_papers_recipe_is_the_papers():
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


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_papers_is_a_recipe_of_its_own_at_the_cost_it_reports(row):
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
    ("setting", "message"),
    [
        ("losses.msgr.stages=[5]", r"stages\.0: .*less than or equal to 4, got 5"),
        ("losses.msgr.norm=3", r"norm: .*1, 2 or 'inf'"),
        ("embedder.multiscale.stages=[4, 1]", "from shallow to deep"),
        ("embedder.pooling=gem", r"set embedder\.pooling=average$"),
        ("augmentation.resize=[200, 144]", "as a whole: .*smaller than the input.*none$"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_the_remedy(setting, message):
    with pytest.raises(InputProblem, match=message):
        read_recipe("msfl-msgr-r50", [setting])


def test_a_setting_of_a_section_that_is_none_is_refused_and_left_out_of_a_papers_row():
    setting = "embedder.multiscale.channels=64"
    with pytest.raises(InputProblem, match=r"multiscale is 'none'.*multiscale=\{channels=64\}'"):
        read_recipe("small-msfl", ["embedder.multiscale=none", setting])
    for row in read_table("small/msfl").rows:
        own = row.resolved().embedder.multiscale
        changed = row.resolved([setting])
        assert (own is None) == (changed.embedder.multiscale is None)
        assert own is None or changed.embedder.multiscale.channels == 64
