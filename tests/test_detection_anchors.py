import itertools

import numpy as np
import pytest
import tensorflow as tf
from official.vision.ops import anchor as stock

from detection.anchors import anchor_grid, label_anchors

CANVAS = 640
PICTURE = np.array([400, 560], np.float32)  # height and width, within the canvas
OBJECTS = np.array([[40, 60, 180, 220], [200, 300, 390, 550], [10, 500, 40, 520]], np.float32)


def iou(a, b):
    """IoU of two boxes (y1, x1, y2, x2), one number at a time."""
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    common = max(height, 0) * max(width, 0)
    area_a, area_b = ((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
    return common / (area_a + area_b - common)


@pytest.fixture(scope="module")
def anchors():
    return anchor_grid(CANVAS, 64)["4"].numpy().reshape(-1, 4)


def label(anchors, objects, seed=(0, 0)):
    labels, targets = label_anchors(
        tf.constant(anchors), tf.constant(objects), tf.constant(PICTURE), tf.constant(seed)
    )
    return labels.numpy(), targets.numpy()


def inside(anchors):
    return (anchors[:, :2] >= 0).all(1) & (anchors[:, 2:] <= PICTURE).all(1)


def test_areas_and_ratios_are_the_papers():
    grid = anchor_grid(96)["4"].numpy().reshape(6, 6, 9, 4)
    height, width = grid[..., 2] - grid[..., 0], grid[..., 3] - grid[..., 1]
    expected = [(128 * s, r) for s, r in itertools.product((1, 2, 4), (0.5, 1, 2))]
    found = zip(np.sqrt(height * width)[2, 3], (width / height)[2, 3], strict=True)
    np.testing.assert_allclose(list(found), expected, rtol=1e-5)
    centres = (grid[..., :2] + grid[..., 2:]) / 2  # [6, 6, 9, (y, x)]
    rows, columns = np.mgrid[:6, :6] * 16 + 8
    np.testing.assert_allclose(centres[..., 0], np.repeat(rows[..., None], 9, -1), atol=1e-4)
    np.testing.assert_allclose(centres[..., 1], np.repeat(columns[..., None], 9, -1), atol=1e-4)


def test_nothing_outside_the_picture_trains(anchors):
    labels, targets = label(anchors, OBJECTS)
    assert (labels[~inside(anchors)] == -1).all()
    assert (targets[~inside(anchors)] == 0).all()
    assert np.count_nonzero(labels >= 0) == 256
    # Model Garden's own labels do not pass this test.
    scores, _ = stock.RpnAnchorLabeler().label_anchors(
        {"4": tf.reshape(anchors, [40, 40, 36])}, tf.constant(OBJECTS), tf.ones([3, 1])
    )
    assert (scores["4"].numpy().reshape(-1)[~inside(anchors)] == 0).any()


def test_labels_are_those_of_the_definition(anchors):
    labels, targets = label(anchors, OBJECTS)
    candidates = np.flatnonzero(inside(anchors))
    overlap = np.array([[iou(anchors[a], o) for o in OBJECTS] for a in candidates])
    best = overlap.max(1)
    is_best = np.isclose(overlap, overlap.max(0), rtol=0, atol=1e-6).any(1)
    positive = set(candidates[is_best | (best >= 0.7)])
    negative = set(candidates[(best < 0.3) & ~is_best])
    # Fewer than 128 positives: all of them are drawn, and negatives fill up.
    assert set(np.flatnonzero(labels == 1)) == positive
    assert set(np.flatnonzero(labels == 0)) <= negative
    assert np.count_nonzero(labels == 0) == 256 - len(positive)

    for a in positive:
        (y1, x1, y2, x2), box = anchors[a], OBJECTS[overlap[list(candidates).index(a)].argmax()]
        expected = (
            (box[0] + box[2] - y1 - y2) / 2 / (y2 - y1),
            (box[1] + box[3] - x1 - x2) / 2 / (x2 - x1),
            np.log((box[2] - box[0]) / (y2 - y1)),
            np.log((box[3] - box[1]) / (x2 - x1)),
        )
        np.testing.assert_allclose(targets[a], expected, atol=1e-5)
    assert (targets[labels != 1] == 0).all()


def test_positives_get_half_at_most(anchors):
    objects = anchors[inside(anchors)][::7]  # each an anchor: IoU 1
    labels, _ = label(anchors, objects)
    assert np.count_nonzero(labels == 1) == 128
    assert np.count_nonzero(labels == 0) <= 128


def test_a_picture_without_objects_has_negatives_alone(anchors):
    labels, targets = label(anchors, np.zeros([0, 4], np.float32))
    assert np.count_nonzero(labels == 0) == 256
    assert not (labels == 1).any() and not targets.any()


def test_the_draw_follows_from_the_seed(anchors):
    first, again, other = (label(anchors, OBJECTS, (5, s))[0] for s in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
