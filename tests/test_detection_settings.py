import dataclasses
import json
import pathlib
import re
import subprocess
import sys

import pytest

from detection.backbones import FREEZE_TO, NETWORKS
from detection.settings import Settings, Start, make_experiment, require_valid
from la_tf.errors import RunError

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAPER = ("alexnet", "vgg16", "resnet50")
CODE = """
import json, sys
sys.modules["tensorflow"] = None  # whoever imports it gets an ImportError
import finetune_voc
from absl import flags
flags.FLAGS(["tool", "--voc_dir=DIR", *sys.argv[1:]])
print(json.dumps(flags.FLAGS.flag_values_dict()))
"""


def flags_of(*flags):
    process = subprocess.run(
        [sys.executable, "-c", CODE, *flags],
        cwd=ROOT / "tools",
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(process.stdout)


def start(network="alexnet"):
    return Start("random", network, 224, 0, "untrained")


@pytest.mark.parametrize("name", [None, *PAPER])
def test_flags_and_recipes_hold_the_papers_settings(name):
    recipe = () if name is None else (f"--flagfile={ROOT}/configs/voc07_{name}.flags",)
    given = flags_of(*recipe)
    for option, value in dataclasses.asdict(Settings()).items():
        assert given[option] == value, option


def test_the_small_recipe_is_small():
    given = flags_of(f"--flagfile={ROOT}/configs/voc07_small.flags")
    assert given["steps"] <= 4000 and given["long_side"] <= 320


def test_the_small_recipe_is_that_of_the_measured_runs():
    given = flags_of(f"--flagfile={ROOT}/configs/voc07_small.flags")
    lines = (ROOT / "docs" / "results" / "transfer.jsonl").read_text().splitlines()
    measured = [record["settings"] for record in map(json.loads, lines) if "settings" in record]
    assert len(measured) == 2
    for settings in measured:
        assert {option: given[option] for option in settings} == settings


@pytest.mark.parametrize("network", PAPER)
def test_the_experiment_is_the_papers(network):
    config = make_experiment(start(network), Settings(), "train*", "test*")
    task, trainer = config.task, config.trainer
    # Supplement B.4.
    optimizer = trainer.optimizer_config
    assert optimizer.optimizer.get().momentum == 0.9
    assert optimizer.learning_rate.get().boundaries == [49_999]
    assert optimizer.learning_rate.get().values == pytest.approx([1e-3, 1e-4])
    assert optimizer.warmup.type is None
    assert trainer.train_steps == 70_000
    assert task.losses.l2_weight_decay == 1e-4
    assert task.model.roi_sampler.num_sampled_rois == 128
    # The reference's defaults.
    model, parser = task.model, task.train_data.parser
    assert model.input_size == [1008, 1008, 3] and model.num_classes == 21
    assert (model.min_level, model.max_level) == (4, 4)
    assert (parser.short_side, parser.long_side, parser.aug_rand_hflip) == (600, 1000, True)
    assert not task.validation_data.parser.aug_rand_hflip
    assert task.train_data.global_batch_size == 1 and task.train_data.dtype == "float32"
    assert (parser.rpn_batch_size_per_im, parser.rpn_fg_fraction) == (256, 0.5)
    assert (parser.rpn_match_threshold, parser.rpn_unmatched_threshold) == (0.7, 0.3)
    rois, sampler = model.roi_generator, model.roi_sampler
    assert (rois.pre_nms_top_k, rois.num_proposals, rois.nms_iou_threshold) == (12000, 2000, 0.7)
    assert (rois.test_pre_nms_top_k, rois.test_num_proposals) == (6000, 300)
    assert (sampler.foreground_fraction, sampler.mix_gt_boxes) == (0.25, False)
    assert (sampler.background_iou_low_threshold, sampler.background_iou_high_threshold) == (0, 0.5)
    found = model.detection_generator
    assert (found.nms_iou_threshold, found.pre_nms_score_threshold) == (0.3, 0)
    assert found.max_num_detections == 100
    assert model.rpn_head.num_filters == 512


def test_model_garden_takes_the_experiment():
    make_experiment(start(), Settings(), "", "").validate()


@pytest.mark.parametrize(
    ("settings", "replicas", "sentence"),
    [
        (Settings(), 2, "--batch_size=1 cannot be divided evenly over 2 replicas"),
        (Settings(short_side=600, long_side=500), 1, "--long_side=500 is less than"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings, replicas, sentence):
    with pytest.raises(RunError, match=sentence):
        require_valid(settings, replicas)


def test_the_tool_offers_what_there_is(run_tool):
    """It lists them itself, since it is not to import TensorFlow for `--help`."""
    _, stdout, _ = run_tool("finetune_voc", "--help")
    offered = {
        choices.replace("\n", "").replace(" ", "") for choices in re.findall("<([^>]+)>", stdout)
    }
    assert {"|".join(FREEZE_TO), "|".join(NETWORKS)} <= offered
