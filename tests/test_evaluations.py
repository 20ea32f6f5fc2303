"""Result files and the table, against numbers typed from the paper."""

import dataclasses
import json

import pytest

from la_tf.errors import RunError
from la_tf.results.evaluations import (
    Evaluation,
    find_evaluation,
    read_evaluations,
    require_own_name,
    write_evaluation,
)
from la_tf.results.paper_tables import ROWS as PAPER
from la_tf.results.tables import milestone_table, result_table, result_tables

KNN = Evaluation(
    protocol="knn",
    data="cifar10",
    fingerprint="a-b",
    row="LA",
    transfer=False,
    network="alexnet",
    step=700,
    epoch=7.0,
    accuracy={"KNN": 0.5, "KNN K=1": 0.4321},
    settings={"gallery": "memory bank", "k": [200, 1], "tau": 0.07},
    seconds=3.0,
    environment={"cpu": "a CPU"},
)
LINEAR = dataclasses.replace(
    KNN,
    protocol="linear",
    accuracy={f"conv{i}": i / 10 for i in range(1, 6)},
    settings={"epochs": 90},
)
UNTRAINED = dataclasses.replace(KNN, row="untrained", step=0, accuracy={"KNN": 0.1})


def test_what_is_written_is_read_again_in_the_order_of_the_table(tmp_path):
    for evaluation in (LINEAR, UNTRAINED, KNN):
        file = write_evaluation(tmp_path, evaluation)
        assert json.loads(file.read_text())["accuracy"] == evaluation.accuracy
    found = read_evaluations(tmp_path)
    assert found[0] == UNTRAINED and sorted(e.protocol for e in found[1:]) == ["knn", "linear"]
    assert all(e in (KNN, LINEAR) for e in found[1:])
    assert read_evaluations(tmp_path / "nothing") == []


@pytest.mark.parametrize("other", [{"step": 800}, {"settings": {"k": [200, 1]}}])
def test_no_result_takes_the_place_of_another(tmp_path, other):
    second = dataclasses.replace(KNN, accuracy={"KNN": 0.6}, **other)
    for evaluation in (KNN, second):
        write_evaluation(tmp_path, evaluation)
    assert len(read_evaluations(tmp_path)) == 2
    again = dataclasses.replace(KNN, seconds=7.0)
    write_evaluation(tmp_path, again)
    found = read_evaluations(tmp_path)
    assert len(found) == 2 and again in found and second in found


def test_other_images_need_another_name(tmp_path):
    require_own_name(tmp_path, "cifar10", "a-c")
    write_evaluation(tmp_path, KNN)
    require_own_name(tmp_path, "cifar10", "a-b")
    require_own_name(tmp_path, "cifar10.1", "a-c")
    with pytest.raises(RunError, match=r"other images under the name cifar10.*--name"):
        require_own_name(tmp_path, "cifar10", "a-c")


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "a b", "-x"])
def test_a_name_must_be_fit_for_a_file(tmp_path, name):
    with pytest.raises(RunError, match="cannot name a data set"):
        require_own_name(tmp_path, name, "a-b")


def test_a_result_is_found_again_by_images_step_and_settings(tmp_path):
    assert find_evaluation(tmp_path, LINEAR) is None
    write_evaluation(tmp_path, LINEAR)
    assert find_evaluation(tmp_path, dataclasses.replace(LINEAR, accuracy={})) == LINEAR
    for change in ({"step": 701}, {"settings": {"epochs": 30}}):
        assert find_evaluation(tmp_path, dataclasses.replace(LINEAR, **change)) is None


@pytest.mark.parametrize("damage", ["{}", "[]", "", '"row"'])
def test_a_damaged_file_is_named(tmp_path, damage):
    file = write_evaluation(tmp_path, KNN)
    file.write_text(damage)
    with pytest.raises(RunError, match=str(file)):
        read_evaluations(tmp_path)


VOC07 = dataclasses.replace(
    KNN,
    protocol="voc07",
    data="VOC2007",
    transfer=True,
    settings={"classes": ["cat", "dog"], "shots": [1, 2], "draws": 3},
    accuracy={
        **{"mAP conv2": 0.25, "AP conv2 cat": 0.2, "AP conv2 dog": 0.3},
        **{"mAP conv4": 0.35, "AP conv4 cat": 0.1, "AP conv4 dog": 0.6},
        **{"mAP conv2 of 1": 0.05, "mAP conv2 of 1, deviation": 0.012, "mAP conv4 of 2": 0.125},
    },
)
RAW = dataclasses.replace(
    VOC07,
    row="raw pixels",
    step=0,
    accuracy={"mAP pixels": 0.1, "AP pixels cat": 0.12, "AP pixels dog": 0.08},
)


def test_mean_average_precision_has_tables_of_its_own():
    top1, means, by_class, few = result_tables([KNN, VOC07, RAW])
    assert top1.caption.startswith("cifar10: top-1 accuracy")
    assert means.caption.startswith("VOC2007: mean average precision (mAP) in percent")
    assert list(means.numbers.columns) == ["conv2", "conv4", "pixels"] and means.num_paper == 0
    assert values(means, "LA") == pytest.approx({"conv2": 25.0, "conv4": 35.0})
    assert values(means, "raw pixels") == {"pixels": 10.0}
    # Of the best layer of each row.
    assert list(by_class.numbers.columns) == ["raw pixels, pixels", "LA, conv4"]
    assert values(by_class, "dog") == pytest.approx({"raw pixels, pixels": 8.0, "LA, conv4": 60.0})
    assert "over 3 draws" in few.caption
    cells = few.cells.loc["LA, conv2"]
    assert list(cells) == ["5.0 ± 1.2", "-"] and list(few.cells.columns) == [1, 2]
    assert list(few.cells.loc["LA, conv4"]) == ["-", "12.5"]


def test_a_table_without_numbers_is_left_out():
    few = dataclasses.replace(RAW, settings={"classes": [], "shots": []})
    assert len(result_tables([few])) == 1
    assert result_tables([dataclasses.replace(few, accuracy={})]) == []


def test_draws_tell_lines_of_one_row_apart():
    other = dataclasses.replace(VOC07, settings=VOC07.settings | {"draws": 9})
    means, _, few = result_tables([VOC07, other])
    assert list(means.numbers.index) == ["LA (3 draws)", "LA (9 draws)"]
    assert "over 3 or 9 draws" in few.caption


def readouts(*values):
    return {f"conv{i}": value for i, value in enumerate(values, 1)}


def values(table, name: str) -> dict[str, float]:
    """The numbers of one row, without those that it lacks."""
    return table.numbers.loc[name].dropna().to_dict()


def test_the_table_has_the_papers_rows_then_ours():
    table = result_table([UNTRAINED, KNN, LINEAR], "cifar10")
    assert list(table.numbers.index) == [
        "Random, alexnet, ImageNet (paper)",
        "IR, alexnet, ImageNet (paper)",
        "IR (with BN), alexnet, ImageNet (paper)",
        "DC, alexnet, ImageNet (paper)",
        "LA, alexnet, ImageNet (paper)",
        "untrained",
        "LA",
    ]
    assert table.num_paper == 5
    # Table 1, typed again from the paper.
    la = values(table, "LA, alexnet, ImageNet (paper)")
    assert la == {**readouts(18.7, 32.7, 38.1, 42.3, 42.4), "KNN": 38.1}
    assert values(table, "Random, alexnet, ImageNet (paper)")["KNN"] == 3.5
    assert "KNN" not in values(table, "DC, alexnet, ImageNet (paper)")
    ours = values(table, "LA")
    assert ours["conv3"] == pytest.approx(30.0) and ours["KNN K=1"] == pytest.approx(43.21)


def test_beside_other_images_stand_the_places_numbers():
    transfer = dataclasses.replace(KNN, network="resnet50", data="sun18", transfer=True)
    first, table = result_tables([LINEAR, transfer])
    assert first.caption == "cifar10: top-1 accuracy in percent."
    la = values(table, "LA, resnet50, Places (paper)")
    # Table 2, and Table 2 of the supplement.
    assert la == {**readouts(10.3, 26.4, 39.9, 47.2, 50.1), "KNN": 42.4}
    assert values(table, "LA") == {"KNN": 50.0, "KNN K=1": pytest.approx(43.21)}


def test_an_unknown_row_is_damage_too(tmp_path):
    file = write_evaluation(tmp_path, dataclasses.replace(KNN, row="a row"))
    with pytest.raises(RunError, match=str(file)):
        read_evaluations(tmp_path)


def test_each_step_and_setting_has_a_line():
    later = dataclasses.replace(LINEAR, step=900, epoch=9.0)
    crops = dataclasses.replace(KNN, settings=KNN.settings | {"gallery": "centre crops"})
    table = result_table([KNN, LINEAR, later, crops], "cifar10")
    assert list(table.numbers.index[5:]) == [
        "LA (epoch 7, memory bank)",
        "LA (epoch 7, centre crops)",
        "LA (epoch 9)",
    ]
    assert {"KNN", "conv1"} <= set(values(table, "LA (epoch 7, memory bank)"))
    assert "conv1" not in values(table, "LA (epoch 7, centre crops)")
    assert "KNN" not in values(table, "LA (epoch 9)")


def test_the_caption_says_what_was_searched_and_how_many_voted():
    crops = dataclasses.replace(UNTRAINED, settings={"gallery": "centre crops", "k": [200, 1]})
    assert result_table([crops, KNN, LINEAR], "cifar10").caption == (
        "cifar10: top-1 accuracy in percent. KNN is K = 200, and searches centre crops (untrained) "
        "and memory bank (LA)."
    )
    few = dataclasses.replace(KNN, settings=KNN.settings | {"k": [30, 1]})
    caption = result_table([few], "cifar10").caption
    assert caption.endswith("fewer than 200 images, so all of them vote.")


def test_a_network_of_our_own_stands_beside_its_closest_relative():
    small = dataclasses.replace(KNN, network="smallnet")
    assert "LA, alexnet, ImageNet (paper)" in result_table([small], "cifar10").numbers.index


def test_the_text_has_the_columns_that_have_numbers():
    _, _, head, *_, last = str(result_table([KNN], "cifar10")).splitlines()
    assert head.split() == ["conv1", "conv2", "conv3", "conv4", "conv5", "KNN", "KNN", "K=1"]
    assert last.split() == ["LA", "-", "-", "-", "-", "-", "50.0", "43.2"]
    assert len(head) == len(last)


def test_the_table_of_milestones_is_in_percent():
    text = str(milestone_table([("end of IR", 0.5, 0.251), ("end of LA", 1.0, 0.0)], "the bank"))
    caption, _, head, *rows = text.splitlines()
    assert caption == "Held-out kNN accuracy in percent, against the bank."
    assert head.split() == ["K", "=", "200", "K", "=", "1"]
    assert [row.split()[-2:] for row in rows] == [["50.0", "25.1"], ["100.0", "0.0"]]


# Sums over conv1 to conv5, from the text of Tables 1 and 2 and not from paper.py.
TABLE_1 = [76.0, 131.0, 133.3, 146.2, 141.1, 150.4, 144.8, 162.0, 164.5, 174.2]
TABLE_1 += [139.8, 149.4, 191.2, 168.1, 149.2, 155.7, 163.8, 153.6, 179.5, 182.0]
TABLE_2 = [92.4, 141.9, 143.5, 156.7, 152.6, 143.1, 168.7, 166.5, 169.4]
TABLE_2 += [140.3, 152.6, 183.4, 171.9, 146.0, 151.6, 172.4, 157.7, 166.6, 173.9]


def test_the_papers_rows_add_up_to_what_its_tables_do():
    assert [sum(row.imagenet) for row in PAPER] == pytest.approx(TABLE_1)
    assert [sum(row.places) for row in PAPER if row.places] == pytest.approx(TABLE_2)
    assert [row.method for row in PAPER if not row.places] == ["Count"]
