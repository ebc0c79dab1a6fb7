import json
import math

from training.evaluation.report_tables import validation
from training.evaluation.training_log import read_training_log


def line(step: int, **values: object) -> str:
    return json.dumps({"event": "step", "step": step, "epoch": step / 10, **values})


def test_curves_go_by_term_over_epochs_and_the_later_line_of_a_step_counts(tmp_path):
    file = tmp_path / "log.jsonl"
    lines = [
        line(0, loss={"gmn": 0.7}, gradient_norm={"gmn": 2.0}, crops_per_second=10.0),
        json.dumps({"event": "resumed", "step": 10}),
        line(10, loss={"gmn": 9.0}),
        line(10, loss={"gmn": 0.5, "pic": 0.0}, crops_per_second=20.0),
        '{"event": "step", "st',
    ]
    file.write_text("\n".join(lines))
    log = read_training_log(file)
    assert log.losses["gmn"] == ([0.0, 1.0], [0.7, 0.5])
    assert log.gradient_norms["gmn"] == ([0.0], [2.0])
    assert log.crops_per_second == 20.0
    epochs, values = log.losses["pic"]
    assert epochs == [1.0]
    assert math.isnan(values[0])


def test_a_rank_1_of_0_is_0_in_its_curve_and_in_the_table(tmp_path):
    file = tmp_path / "log.jsonl"
    figures = {"mAP": {"mine/cosine": 0.0}, "rank_1": {"mine/cosine": 0.0}}
    file.write_text(json.dumps({"event": "validation", "step": 4, "epoch": 2, **figures}))
    log = read_training_log(file)
    assert log.mean_average_precision["mine/cosine"] == ([2.0], [0.0])
    assert log.rank_1["mine/cosine"] == ([2.0], [0.0])
    assert validation(log).rows == [["2", "0.0", "0.0"]]


def test_a_folder_without_a_log_has_no_curves(tmp_path):
    assert read_training_log(tmp_path / "log.jsonl").losses == {}
