"""The page beside an export: what it says where results are many, unreadable or missing."""

import dataclasses
import shutil

import pytest

from la_tf.export.model_card import MARK, model_card
from la_tf.export.saved_model import ExportError
from la_tf.resolve import resolve
from la_tf.results.evaluations import Evaluation, write_evaluation
from la_tf.runs.trained_run import open_run


@pytest.fixture(scope="module")
def folder(trained_run, tmp_path_factory):
    """An export without its page."""
    folder = tmp_path_factory.mktemp("model")
    shutil.copytree(trained_run / "export" / "1", folder / "1")
    return folder


@pytest.fixture
def run(trained_run, tmp_path):
    """A copy of the run, to be changed."""
    return open_run(str(shutil.copytree(trained_run, tmp_path / "run_7")))


def evaluation(run, **changes) -> Evaluation:
    stored = Evaluation(
        protocol="knn",
        data="scenes",
        fingerprint="0123",
        row="LA",
        transfer=True,
        network="smallnet",
        step=run.step,
        epoch=run.epoch,
        accuracy={"KNN": 0.1234, "KNN K=1": 0.5678},
        settings={"gallery": "centre crops", "k": [200, 1]},
        seconds=1.0,
        environment={},
    )
    return dataclasses.replace(stored, **changes)


def cells(page: str, name: str) -> list[list[str]]:
    """The rows of the page's tables that begin with a name."""
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row[1:]] for row in rows if row[0].strip() == name]


def test_the_results_of_every_evaluation_are_on_the_page(run, folder):
    write_evaluation(run.path, evaluation(run))
    write_evaluation(run.path, evaluation(run, row="untrained", step=0, accuracy={"KNN": 0.05}))
    page = model_card(run, folder)
    assert "The next export to this folder replaces it: keep notes in another file." in page
    assert page.startswith(MARK) and "# run_7: pictures to vectors of 128 numbers" in page
    # The paper's rows bring the columns of conv1 to conv5.
    assert cells(page, "LA") == [["-"] * 5 + ["12.3", "56.8"]]
    assert cells(page, "untrained") == [["-"] * 5 + ["5.0", "-"]]
    assert "scenes: top-1 accuracy in percent." in page
    assert len(cells(page, "end of LA")) == 1  # what training measured is there as well


def test_mean_average_precision_is_on_the_page(run, folder):
    accuracy = {"mAP conv3": 0.25, "AP conv3 cat": 0.75}
    accuracy |= {"mAP conv3 of 2": 0.125, "mAP conv3 of 2, deviation": 0.01}
    settings = {"classes": ["cat"], "shots": [2], "draws": 5}
    voc07 = evaluation(run, protocol="voc07", accuracy=accuracy, settings=settings)
    write_evaluation(run.path, voc07)
    page = model_card(run, folder)
    assert cells(page, "LA") == [["25.0"]] and cells(page, "cat") == [["75.0"]]
    assert cells(page, "LA, conv3") == [["12.5 ± 1.0"]]
    assert "scenes: mean average precision (mAP) in percent" in page


def test_a_result_that_cannot_be_read_leaves_the_others(run, folder):
    write_evaluation(run.path, evaluation(run)).write_text("{")
    page = model_card(run, folder)
    assert "The results of tools/evaluate.py cannot be read" in page
    assert len(cells(page, "end of LA")) == 1 and str(run.path) not in page


def test_an_unfinished_run_is_called_one(run, folder):
    page = model_card(dataclasses.replace(run, step=run.step // 2), folder)
    assert "This run is not finished: 2 of 4 epochs are done." in page
    assert cells(page, "Objective")[0][0] == "Instance recognition"


def test_every_option_but_where_the_run_is_stands_with_its_value(run, folder):
    page = model_card(run, folder)
    for section in dataclasses.fields(run.config):
        for field in dataclasses.fields(section.type):
            rows = cells(page, field.name) + cells(page, f"**{field.name}**")
            assert len(rows) == (section.name != "run"), field.name
    assert cells(page, "**epochs**")[0][0] == "4"


def test_what_the_library_chose_is_not_marked_as_given(run, folder):
    derived = dataclasses.replace(
        run.config,
        objective=dataclasses.replace(run.config.objective, k=None),
        clustering=dataclasses.replace(run.config.clustering, num_clusters=None),
    )
    config = resolve(derived, run.num_examples)
    page = model_card(dataclasses.replace(run, config=config), folder)
    assert cells(page, "k")[0][0] == str(config.objective.k)
    assert cells(page, "num_clusters") and cells(page, "bn_momentum")
    page = model_card(run, folder)  # the flags give k and m
    assert cells(page, "**k**")[0][0] == "64" and cells(page, "**num_clusters**")[0][0] == "40"


def test_a_sentence_about_onnx_is_on_the_page_of_an_export_that_has_it(run, folder):
    assert "\nIt was compared.\n" in model_card(run, folder, onnx="It was compared.")
    assert "onnx" not in model_card(run, folder)


def test_there_is_no_page_without_a_savedmodel(run, tmp_path):
    with pytest.raises(ExportError, match="is no SavedModel"):
        model_card(run, tmp_path / "empty")


def test_the_shapes_on_the_page_are_those_of_the_network(run, folder):
    (features,) = cells(model_card(run, folder), "`features`")
    for name in ("conv1", "conv5"):
        layer = run.network.get_layer("backbone").get_layer(name)
        assert f"`{name}` float32 [B, {layer.filters}]" in features[1]
