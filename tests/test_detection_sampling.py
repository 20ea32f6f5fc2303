import numpy as np
import pytest
import tensorflow as tf

from detection.anchors import anchor_grid
from detection.config import DetectorModel
from detection.heads import DetectionGenerator
from detection.regions import ROIGenerator
from detection.sampling import RoISampler

OBJECT = [10.0, 10.0, 50.0, 50.0]
GOOD = [[10.0 + i / 100, 10.0, 50.0, 50.0] for i in range(40)]  # IoU near 1
BAD = [[200.0 + i, 200.0, 260.0, 260.0] for i in range(60)]  # IoU 0
EMPTY = [[0.0, 0.0, 0.0, 0.0]] * 300  # what Model Garden fills up with


def sample(proposals, sampler=None, num_samples=64):
    sampler = sampler or make(num_samples)
    gt_boxes = tf.constant([[OBJECT, [-1.0] * 4]])
    rois, boxes, classes, _ = sampler(tf.constant([proposals]), gt_boxes, tf.constant([[7, -1]]))
    return rois[0].numpy(), boxes[0].numpy(), classes[0].numpy()


def make(num_samples=64, seed=0):
    return RoISampler(
        seed, num_sampled_rois=num_samples, foreground_fraction=0.25, mix_gt_boxes=False
    )


def test_a_quarter_shows_objects_and_nothing_is_drawn_twice():
    rois, boxes, classes = sample(GOOD + BAD + EMPTY)
    assert np.count_nonzero(classes == 7) == 16
    assert len({tuple(r) for r in rois}) == 64
    assert (boxes[classes == 7] == OBJECT).all()
    good, bad = ({tuple(np.float32(b)) for b in kind} for kind in (GOOD, BAD))
    assert {tuple(r) for r in rois[classes == 7]} <= good
    assert {tuple(r) for r in rois[classes == 0]} <= bad  # and no empty one


@pytest.mark.parametrize(
    ("proposals", "objects"),
    [(GOOD[:3] + BAD + EMPTY, 3), (GOOD + BAD[:5] + EMPTY, 16), (GOOD + EMPTY, 64), (BAD, 0)],
    ids=["few objects", "little background", "no background", "no object"],
)
def test_too_few_of_a_kind_are_drawn_again(proposals, objects):
    rois, _, classes = sample(proposals)
    assert np.count_nonzero(classes == 7) == objects
    assert (rois[:, 2:] > rois[:, :2]).all()
    # As evenly as possible.
    background = [tuple(r) for r in rois[classes == 0]]
    if background:
        counts = [background.count(r) for r in set(background)]
        assert max(counts) - min(counts) <= 1


def test_a_picture_without_an_object_is_background_all_over():
    """Not the same region again and again."""
    nothing = tf.fill([1, 2, 4], -1.0)
    rois, _, classes, _ = make()(tf.constant([BAD + EMPTY]), nothing, tf.fill([1, 2], -1))
    assert not classes.numpy().any()
    drawn = {tuple(r) for r in rois[0].numpy()}
    assert drawn == {tuple(np.float32(b)) for b in BAD}  # 60 in 64 draws: every one of them


@pytest.mark.parametrize("training", [True, False])
def test_the_padding_of_the_canvas_has_no_proposals(training):
    """Its anchors are never trained: here they are surest of all, and more than top-k takes.

    Many of them reach into the picture.
    """
    side, most = 256, 300
    anchors = anchor_grid(512, base_size=64)["4"]
    scores = np.full((1, 32, 32, 9), 8.0, np.float32)  # the padding
    inside = np.random.default_rng(0).normal(size=(16, 16, 9))
    scores[0, :16, :16] = inside
    options = DetectorModel().roi_generator.as_dict()
    options |= dict.fromkeys(("pre_nms_top_k", "test_pre_nms_top_k", "num_proposals"), most)
    generator = ROIGenerator(**options)
    proposals, found = generator(
        {"4": tf.zeros([1, 32, 32, 36])},
        {"4": tf.constant(scores)},
        {"4": anchors[tf.newaxis]},
        tf.constant([[side, side]], tf.float32),
        training=training,
    )
    proposals, found = proposals[0].numpy(), found[0].numpy()
    real = found > 0
    boxes = np.clip(anchors.numpy()[:16, :16].reshape(-1, 4), 0, side)
    surest = np.argsort(-inside.reshape(-1))[:most]
    allowed = {tuple(np.round(box).astype(int)) for box in boxes[surest]}
    proposed = [tuple(np.round(box).astype(int)) for box in proposals[real]]
    assert proposed[0] == tuple(np.round(boxes[surest[0]]).astype(int))
    assert len(proposed) > 30 and set(proposed) <= allowed
    assert not proposals[~real].any()


def test_no_proposal_at_all_is_background():
    rois, _, classes = sample(EMPTY)
    assert not rois.any() and not classes.any()


def test_draws_go_on_after_a_restart(tmp_path):
    uninterrupted = make()
    draws = [sample(GOOD + BAD, uninterrupted)[0] for _ in range(3)]
    assert (draws[0] != draws[1]).any()

    killed = make()
    sample(GOOD + BAD, killed)
    saved = tf.train.Checkpoint(model=killed).save(str(tmp_path / "checkpoint"))
    resumed = make(seed=123)
    tf.train.Checkpoint(model=resumed).restore(saved).assert_consumed()
    for expected in draws[1:]:
        np.testing.assert_array_equal(sample(GOOD + BAD, resumed)[0], expected)


def test_empty_regions_are_no_detections():
    """Though the head is surer of them than of the real ones, and they are many."""
    generator = DetectionGenerator(**DetectorModel().detection_generator.as_dict())
    real = np.array([[10 * i, 10 * i, 10 * i + 9, 10 * i + 9] for i in range(5)], np.float32)
    regions = np.concatenate([np.zeros([200, 4], np.float32), real])[np.newaxis]
    logits = np.zeros([1, 205, 21], np.float32)
    logits[0, :200, 6], logits[0, 200:, 3] = 5.0, 2.0
    found = generator(
        tf.zeros([1, 205, 84]), tf.constant(logits), tf.constant(regions), tf.constant([[64, 64]])
    )
    first = found["detection_boxes"][0, :5].numpy()
    np.testing.assert_allclose(sorted(first.tolist()), real, atol=1e-4)
    assert (found["detection_classes"][0, :5].numpy() == 3).all()
    scores = found["detection_scores"][0].numpy()
    assert scores[0] == pytest.approx(np.exp(2) / (np.exp(2) + 20), rel=1e-5)
    others = found["detection_boxes"][0, : int(found["num_detections"][0])].numpy()
    assert (others[:, 2:] > others[:, :2]).all()
