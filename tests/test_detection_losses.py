import numpy as np
import pytest
import tensorflow as tf

from detection import losses


@pytest.fixture(scope="module")
def random():
    return np.random.default_rng(0)


def smooth_l1(error, sigma):
    """The reference's formula, one number at a time."""
    error = abs(error)
    return 0.5 * (sigma * error) ** 2 if error < 1 / sigma**2 else error - 0.5 / sigma**2


def softplus(x):
    return np.log1p(np.exp(x))


def test_rpn_losses_are_divided_by_the_drawn_anchors(random):
    labels = random.choice([-1, 0, 1], size=(2, 3, 4, 9), p=[0.8, 0.1, 0.1])
    logits = random.normal(size=labels.shape).astype(np.float32)
    outputs = random.normal(size=(2, 3, 4, 36)).astype(np.float32)
    targets = random.normal(size=(2, 3, 4, 36), scale=0.1).astype(np.float32)
    score = box = 0.0
    for place in np.ndindex(labels.shape):
        if labels[place] == 1:
            score += softplus(-logits[place])
            *cell, anchor = place
            at = (*cell, slice(4 * anchor, 4 * anchor + 4))
            box += sum(smooth_l1(e, 3.0) for e in outputs[at] - targets[at])
        elif labels[place] == 0:
            score += softplus(logits[place])
    drawn = np.count_nonzero(labels >= 0)
    np.testing.assert_allclose(losses.rpn_score_loss(logits, labels), score / drawn, rtol=1e-5)
    np.testing.assert_allclose(
        losses.rpn_box_loss(outputs, targets, tf.constant(labels)), box / drawn, rtol=1e-5
    )


def test_head_losses_are_divided_by_the_drawn_regions(random):
    classes = random.integers(0, 5, size=(2, 16)).astype(np.float32)
    classes[:, 4:] = 0
    logits = random.normal(size=(2, 16, 5)).astype(np.float32)
    outputs = random.normal(size=(2, 16, 20)).astype(np.float32)
    targets = random.normal(size=(2, 16, 4)).astype(np.float32)
    entropy = box = 0.0
    for place in np.ndindex(classes.shape):
        label = int(classes[place])
        entropy += np.log(np.exp(logits[place]).sum()) - logits[place][label]
        if label:
            own = outputs[place][4 * label : 4 * label + 4]
            box += sum(smooth_l1(e, 1.0) for e in own - targets[place])
    np.testing.assert_allclose(losses.class_loss(logits, classes), entropy / 32, rtol=1e-5)
    np.testing.assert_allclose(losses.box_loss(outputs, targets, classes), box / 32, rtol=1e-5)


def test_nothing_drawn_is_no_loss():
    nothing = tf.fill([1, 2, 2, 9], -1)
    assert losses.rpn_score_loss(tf.ones([1, 2, 2, 9]), nothing) == 0
    assert losses.rpn_box_loss(tf.ones([1, 2, 2, 36]), tf.zeros([1, 2, 2, 36]), nothing) == 0
