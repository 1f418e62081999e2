"""The chart of a search tells its trials apart."""

import json

from tersenet.search.picture import kind_of, trade_off
from tersenet.search.target import Target
from tersenet.search.trials import Trial


def trial(method: str, size: int, drop: float, **fields: object) -> Trial:
    return Trial(json.dumps({"method": method, "fields": fields}), size, "", 0.0, drop, drop - 0.1, drop + 0.1, 9000)


TRIALS = [trial("vlcq", 500, 0.2), trial("vlcq", 400, 0.6, calibrate=True), trial("lsq", 300, 3.0, bits=2)]


def test_data_free_calibrated_and_trained_have_names_of_their_own() -> None:
    assert [kind_of(each) for each in TRIALS] == ["vlcq, data-free", "vlcq, calibrated", "lsq, trained"]
    assert kind_of(trial("mine", 1, 0.0)) == "mine"


def test_the_target_the_chosen_file_and_the_original_are_marked() -> None:
    figure = trade_off(TRIALS, Target(max_drop=1.0))
    (chosen,) = (row for row in figure.rows if row[0] == "chosen file")
    assert chosen[1] == "400" and "target: 1" in figure.elements and "the original" in figure.elements


def test_a_chart_of_nothing_judged_has_no_chosen_file() -> None:
    figure = trade_off([Trial(json.dumps({"method": "rtn", "fields": {}}), 5, "", 0.0)], Target(max_bytes=9))
    assert not figure.rows
