"""VOC's metric against a plain reading of its definition, and against cases worked out by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from detection.metric import (
    VOCDetectionMetric,
    average_precision,
    has_area,
    match_detections,
    overlaps,
    to_voc_pixels,
)
from la_tf.data.voc import VOC_CLASSES, VOCError, id_of

# --- The definition, read plainly: lists of whole objects, one step after the other. ---


def plain_iou(a, b) -> float:
    """Counts pixels: both boxes are whole pixels with both ends inside."""
    columns = set(range(a[0], a[2] + 1)) & set(range(b[0], b[2] + 1))
    rows = set(range(a[1], a[3] + 1)) & set(range(b[1], b[3] + 1))
    pixels = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    common = len(columns) * len(rows)
    return common / (sum(pixels) - common)


def plain_curve(detections, truth, iou):
    """Recall and precision after each detection of one class that counts.

    detections: (image, score, box); truth: (image, box, difficult).
    """
    wanted = sum(not difficult for _, _, difficult in truth)
    used, right, wrong, curve = set(), 0, 0, []
    for image, _, box in sorted(detections, key=lambda d: d[1], reverse=True):
        best, best_iou = None, 0.0
        for j, (other_image, other_box, _) in enumerate(truth):
            if other_image == image and iou(box, other_box) > best_iou:
                best, best_iou = j, iou(box, other_box)
        if best is None or best_iou < 0.5:
            wrong += 1
        elif truth[best][2]:
            continue
        elif best in used:
            wrong += 1
        else:
            used.add(best)
            right += 1
        curve.append((right / wanted if wanted else math.nan, right / (right + wrong)))
    return curve


def plain_eleven_points(curve) -> float:
    total = 0.0
    for tenth in range(11):
        # 1e-9: a recall of 3 / 10 reaches 0.3, however these are rounded.
        total += max((p for r, p in curve if r >= tenth / 10 - 1e-9), default=0.0)
    return total / 11


def plain_area(curve) -> float:
    """The area under the falling envelope, integrated from the right."""
    area, height, right_end = 0.0, 0.0, None
    for recall, precision in reversed(curve):
        if right_end is not None:
            area += (right_end - recall) * height
        height, right_end = max(height, precision), recall
    return area + (right_end or 0.0) * height


# --- Made-up data: objects with difficult ones, detections near them, twice, and anywhere. ---

WIDTH, HEIGHT = 60, 40
CLASSES = 6  # classes 4 and 5 have no objects, 5 and 6 no detections, class 2 difficult ones alone


def random_box(rng) -> tuple[int, int, int, int]:
    xmin, ymin = rng.integers(1, WIDTH - 20), rng.integers(1, HEIGHT - 16)
    width, height = rng.integers(6, 20), rng.integers(6, 16)
    return int(xmin), int(ymin), int(xmin + width - 1), int(ymin + height - 1)


def near(box, rng, by: int) -> tuple[int, int, int, int]:
    xmin, ymin, xmax, ymax = np.array(box) + rng.integers(-by, by + 1, 4)
    xmin, ymin = max(1, xmin), max(1, ymin)
    return int(xmin), int(ymin), int(min(WIDTH, max(xmin, xmax))), int(min(HEIGHT, max(ymin, ymax)))


def made_up(seed: int, num_images: int = 12):
    """label -> objects (image, box, difficult), and label -> detections (image, score, box)."""
    rng = np.random.default_rng(seed)
    truth = {label: [] for label in range(1, CLASSES + 1)}
    detections = {label: [] for label in range(1, CLASSES + 1)}
    scores = iter(rng.permutation(np.arange(1, 2000)) / 2000)  # none twice
    for image in range(num_images):
        for label in (1, 2, 3, 6):
            for _ in range(rng.integers(0, 4)):
                box, difficult = random_box(rng), label == 2 or rng.random() < 0.25
                truth[label].append((image, box, bool(difficult)))
                if label != 6:
                    for by in range(rng.integers(0, 4)):
                        detections[label].append((image, next(scores), near(box, rng, by)))
        for label in (1, 2, 3, 4):
            detections[label].append((image, next(scores), random_box(rng)))
    return truth, detections


def arrays(detections):
    images, scores, boxes = zip(*detections, strict=True)
    return np.array(images), np.array(scores), np.array(boxes, float)


def by_image(truth):
    found = {}
    for image, box, difficult in truth:
        boxes, flags = found.setdefault(image, ([], []))
        boxes.append(box)
        flags.append(difficult)
    return {i: (np.array(boxes, float), np.array(flags)) for i, (boxes, flags) in found.items()}


def plain_ap(truth, detections, eleven_points: bool, iou=plain_iou) -> float:
    if all(difficult for _, _, difficult in truth):
        return math.nan
    curve = plain_curve(detections, truth, iou)
    return plain_eleven_points(curve) if eleven_points else plain_area(curve)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("eleven_points", [True, False])
@pytest.mark.parametrize("label", [1, 2, 3, 4])
def test_average_precision_is_that_of_the_definition(seed, eleven_points, label):
    truth, detections = made_up(seed)
    images, scores, boxes = arrays(detections[label])
    kept, right = match_detections(images, scores, boxes, by_image(truth[label]))
    wanted = sum(not difficult for _, _, difficult in truth[label])
    np.testing.assert_allclose(
        average_precision(scores[kept], right, wanted, eleven_points),
        plain_ap(truth[label], detections[label], eleven_points),
        atol=1e-6,
    )


def test_the_made_up_data_has_what_it_is_for():
    """Both outcomes, objects found twice and ignored detections, or the test above shows little."""
    truth, detections = made_up(0)
    right = match_detections(*arrays(detections[1]), by_image(truth[1]))[1]
    everything_counts = [(image, box, False) for image, box, _ in truth[1]]
    assert 5 < right.sum() < len(right) < len(detections[1])
    assert len(match_detections(*arrays(detections[1]), by_image(everything_counts))[1]) == len(
        detections[1]
    )
    doubles = [
        (image, box)
        for image, box, _ in truth[1]
        if sum(i == image and plain_iou(b, box) >= 0.5 for i, _, b in detections[1]) > 1
    ]
    assert len(doubles) > 3


# --- By hand. ---


def test_overlap_counts_the_pixels_at_both_ends():
    # 10 x 10 pixels, of which the left half, one pixel, none, and all.
    others = np.array([[1, 1, 5, 10], [10, 10, 10, 10], [11, 1, 20, 10], [1, 1, 10, 10]])
    np.testing.assert_allclose(overlaps(np.array([1, 1, 10, 10]), others), [0.5, 0.01, 0, 1])


A, B = [1, 1, 10, 10], [31, 1, 40, 10]


def ap(detections, truth, eleven_points=True) -> float:
    """detections: (score, box) and truth: (box, difficult), all in one image."""
    images, scores, boxes = arrays([(7, *detection) for detection in detections])
    kept, right = match_detections(images, scores, boxes, by_image([(7, *e) for e in truth]))
    wanted = sum(not difficult for _, difficult in truth)
    return average_precision(scores[kept], right, wanted, eleven_points)


def test_two_objects_and_three_detections():
    detections, truth = [(0.9, A), (0.8, [50, 20, 59, 29]), (0.7, B)], [(A, False), (B, False)]
    # Right, wrong, right: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1. Recalls 0 to 0.5 are reached
    # at precision 1 (six points), 0.6 to 1 at 2/3 (five points).
    assert ap(detections, truth) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert ap(detections, truth, eleven_points=False) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


@pytest.mark.parametrize("eleven_points", [True, False])
def test_all_found_and_nothing_else_is_one(eleven_points):
    assert ap([(0.2, B), (0.1, A)], [(A, False), (B, False)], eleven_points) == 1.0


def test_half_found_reaches_the_point_at_a_half():
    assert ap([(0.2, B)], [(A, False), (B, False)]) == pytest.approx(6 / 11)
    assert ap([(0.2, B)], [(A, False), (B, False)], eleven_points=False) == pytest.approx(0.5)


def test_three_of_ten_reach_a_recall_of_three_tenths():
    # As floating-point numbers 3 * 0.1 > 3 / 10: the points 0, 0.1, 0.2 and 0.3 are reached.
    assert average_precision(np.array([3, 2, 1]), np.ones(3, bool), 10, True) == pytest.approx(
        4 / 11
    )


def test_an_object_found_twice_counts_once():
    # Right, wrong, right, as above.
    detections = [(0.9, A), (0.8, A), (0.7, B)]
    assert ap(detections, [(A, False), (B, False)]) == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_a_second_detection_does_not_move_on_to_the_next_object():
    # Both detections overlap most with A; that B overlaps enough too does not help the second.
    close = [1, 1, 10, 8]
    assert overlaps(np.array(A), np.array([close]))[0] >= 0.5
    assert ap([(0.9, A), (0.8, A)], [(A, False), (close, False)]) == pytest.approx(6 / 11)


def test_a_difficult_object_is_neither_found_nor_missed():
    assert ap([(0.9, A), (0.8, B)], [(A, True), (B, False)]) == 1.0
    assert ap([(0.9, A), (0.85, A), (0.8, B)], [(A, True), (B, False)]) == 1.0
    assert ap([(0.8, B)], [(A, True), (B, False)]) == 1.0


def test_difficult_objects_alone_have_no_average_precision():
    assert math.isnan(ap([(0.9, A)], [(A, True)]))
    assert math.isnan(ap([(0.9, A)], [(A, True)], eleven_points=False))


@pytest.mark.parametrize("right, box", [(True, [1, 1, 5, 10]), (False, [1, 1, 5, 9])])
def test_an_overlap_of_exactly_a_half_is_enough(right, box):
    # 50 and 45 of 100 pixels.
    assert ap([(0.9, box)], [(A, False)]) == (1.0 if right else 0.0)


def test_nothing_detected_is_zero():
    none = np.zeros(0, int), np.zeros(0), np.zeros((0, 4))
    kept, right = match_detections(*none, {7: (np.array([A]), np.array([False]))})
    assert average_precision(kept, right, 1, True) == 0.0
    assert average_precision(kept, right, 1, False) == 0.0


def test_of_equal_scores_the_first_goes_first():
    wrong, right = (0.5, [50, 20, 59, 29]), (0.5, A)
    assert ap([right, wrong], [(A, False)]) == 1.0
    assert ap([wrong, right], [(A, False)]) == 0.5


def test_continuous_boxes_become_whole_pixels_and_stay_inside():
    boxes = np.array([[20, 10, 40, 30], [-5, -5, 500, 500]], np.float32)
    # Scaled by 2 in y and 2.5 in x: rows 10..20 and columns 4..12 of the original, from 0.
    np.testing.assert_array_equal(
        to_voc_pixels(boxes, np.array([2, 2.5]), height=40, width=60),
        [[5, 11, 12, 20], [1, 1, 60, 40]],
    )


def test_whole_pixels_come_back_whole_from_records():
    """Records hold boxes as float32 shares of the picture, which an IoU of 0.5 could notice."""
    rng = np.random.default_rng(0)
    for width, height in rng.integers(100, 500, (50, 2)):
        size = np.array([height, width] * 2, np.float32)
        boxes = np.sort(rng.integers(1, [width, height], (20, 2, 2)), axis=1).reshape(-1, 4)
        shares = np.array([continuous(box) for box in boxes]) / size
        pixels = shares.astype(np.float32) * size
        np.testing.assert_array_equal(to_voc_pixels(pixels, np.ones(2), height, width), boxes)


# --- As TF Model Garden feeds it. ---


def garden_batches(truth, detections, num_images, batch_size, scales):
    """What a task hands over: padded, scaled, with objects of class 1 where nothing counts."""
    rng = np.random.default_rng(5)
    kept, most = 40, 50
    for start in range(0, num_images, batch_size):
        images = range(start, min(num_images, start + batch_size))
        count = len(images)
        groundtruths = {
            "source_id": np.array([2008000001 + i for i in images], np.int64),
            "height": np.full(count, HEIGHT, np.int64),
            "width": np.full(count, WIDTH, np.int64),
            "num_detections": np.zeros(count, np.int32),
            "boxes": np.full((count, kept, 4), -1, np.float32),
            "classes": np.ones((count, kept), np.int64),
            "is_crowds": np.zeros((count, kept), np.int32),
            "areas": np.full((count, kept), -1, np.float32),
        }
        info = np.zeros((count, 4, 2), np.float32)
        predictions = {
            "source_id": groundtruths["source_id"],
            "image_info": info,
            "num_detections": np.zeros(count, np.int32),
            "detection_boxes": rng.uniform(0, 40, (count, most, 4)).astype(np.float32),
            "detection_classes": np.ones((count, most), np.int32),
            "detection_scores": np.full((count, most), 0.99, np.float32),
        }
        for row, image in enumerate(images):
            scale = np.array(scales[image % len(scales)])
            info[row] = [[HEIGHT, WIDTH], scale * [HEIGHT, WIDTH], scale, [0, 0]]
            objects = [(b, label, d) for label, t in truth.items() for i, b, d in t if i == image]
            found = [
                (b, label, s) for label, t in detections.items() for i, s, b in t if i == image
            ]
            # One detection of the background, at the top.
            found.insert(0, ((1, 1, 30, 30), 0, 0.999))
            groundtruths["num_detections"][row] = len(objects)
            predictions["num_detections"][row] = len(found)
            for j, (box, label, difficult) in enumerate(objects):
                groundtruths["boxes"][row, j] = continuous(box)
                groundtruths["classes"][row, j] = label
                groundtruths["is_crowds"][row, j] = difficult
            for j, (box, label, score) in enumerate(found):
                predictions["detection_boxes"][row, j] = continuous(box) * np.tile(scale, 2)
                predictions["detection_classes"][row, j] = label
                predictions["detection_scores"][row, j] = score
        yield groundtruths, predictions


def continuous(box) -> np.ndarray:
    """Whole pixels 1..w to the range 0..w, as ymin, xmin, ymax, xmax."""
    xmin, ymin, xmax, ymax = box
    return np.array([ymin - 1, xmin - 1, ymax, xmax], np.float64)


SCALES = [(1.6, 1.6), (600 / 37, 600 / 37), (0.3, 1000 / 333)]


def fed(truth, detections, batch_size=5, wrap=tf.constant) -> VOCDetectionMetric:
    metric = VOCDetectionMetric()
    for groundtruths, predictions in garden_batches(truth, detections, 12, batch_size, SCALES):
        metric.update_state(
            {key: wrap(value) for key, value in groundtruths.items()},
            {key: wrap(value) for key, value in predictions.items()},
        )
    return metric


def replicas(value):
    """As orbit hands over the values of two replicas."""
    half = len(value) // 2
    return (tf.constant(value[:half]), tf.constant(value[half:]))


@pytest.mark.parametrize("wrap", [tf.constant, np.asarray, replicas])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_gardens_batches_give_the_metric_of_the_definition(batch_size, wrap):
    truth, detections = made_up(3)
    metric = fed(truth, detections, batch_size, wrap)
    result = metric.result()
    expected = {label: plain_ap(truth[label], detections[label], True) for label in truth}
    for label, name in enumerate(VOC_CLASSES, start=1):
        np.testing.assert_allclose(
            result[f"AP/{name}"], expected.get(label, math.nan), atol=1e-6, err_msg=name
        )
    # Classes 1 and 3, and class 6, whose objects nobody found.
    assert expected[6] == 0 and math.isnan(expected[2])
    area = [plain_ap(truth[label], detections[label], False) for label in (1, 3, 6)]
    np.testing.assert_allclose(result["mAP"], (expected[1] + expected[3]) / 3, atol=1e-6)
    np.testing.assert_allclose(result["mAP_area"], sum(area) / 3, atol=1e-6)
    assert len(result) == 22


def test_an_image_that_comes_again_does_not_count_again():
    truth, detections = made_up(3)
    metric = fed(truth, detections)
    once = metric.result()
    for groundtruths, predictions in garden_batches(truth, detections, 12, 5, SCALES):
        metric.update_state(groundtruths, predictions)
    np.testing.assert_equal(metric.result(), once)


def test_resampled_is_the_metric_of_the_drawn_pictures():
    truth, detections = made_up(3)
    resampled = fed(truth, detections, batch_size=12).resampled()
    drawn = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), len(resampled))
    for draw in (0, 1, len(resampled) - 1):
        # A picture that was drawn twice is two pictures.
        pictures = np.repeat(np.arange(12), drawn[draw])
        copies = [
            {
                label: [
                    (i, *rest) for i, j in enumerate(pictures) for k, *rest in entries if k == j
                ]
                for label, entries in of_class.items()
            }
            for of_class in (truth, detections)
        ]
        means = [plain_ap(copies[0][label], copies[1][label], True) for label in truth]
        np.testing.assert_allclose(resampled[draw], np.nanmean(means), atol=1e-6)
    assert len(set(resampled)) > 100


def test_reset_forgets_everything():
    metric = fed(*made_up(3))
    metric.reset_states()
    assert all(math.isnan(value) for value in metric.result().values())
    for groundtruths, predictions in garden_batches(*made_up(4), 12, 4, SCALES):
        metric.update_state(groundtruths, predictions)
    np.testing.assert_equal(metric.result(), fed(*made_up(4)).result())


def test_objects_that_the_parser_cut_off_are_an_error():
    groundtruths, predictions = next(garden_batches(*made_up(3), 12, 5, SCALES))
    groundtruths["num_detections"][2] = 41
    with pytest.raises(VOCError, match="2008_000003 has 41 objects and only 40 were kept: raise"):
        VOCDetectionMetric().update_state(groundtruths, predictions)


def read_detections(path) -> list:
    lines = [line.split() for line in path.read_text().splitlines()]
    return [(words[0], float(words[1]), tuple(map(float, words[2:]))) for words in lines]


def continuous_iou(a, b) -> float:
    """For boxes that are not whole pixels; both ends inside still."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    common = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return common / (sum(areas) - common)


def test_the_detection_files_have_the_same_metric(tmp_path):
    truth, detections = made_up(6)
    rng = np.random.default_rng(0)
    detections = {  # boxes between the pixels, as a detector gives them
        label: [(i, s, tuple(np.array(box) + rng.uniform(-0.5, 0.5, 4))) for i, s, box in found]
        for label, found in detections.items()
    }
    metric = fed(truth, detections)
    paths = metric.write_detections(tmp_path / "detections", "test")
    assert paths == [tmp_path / "detections" / f"comp4_det_test_{name}.txt" for name in VOC_CLASSES]
    result = metric.result()
    for label in truth:
        named = [(id_of(2008000001 + i), box, difficult) for i, box, difficult in truth[label]]
        read = read_detections(paths[label - 1])
        assert len(read) == len(detections[label])
        np.testing.assert_allclose(
            result[f"AP/{VOC_CLASSES[label - 1]}"],
            plain_ap(named, read, True, continuous_iou),
            atol=1e-9,
        )
    assert paths[-1].read_text() == ""


def test_a_line_of_a_detection_file(tmp_path):
    metric = VOCDetectionMetric()
    metric.update_state(
        {
            "source_id": np.array([45]),
            "height": np.array([375]),
            "width": np.array([500]),
            "num_detections": np.array([0]),
            "boxes": np.zeros((1, 1, 4)),
            "classes": np.array([[-1]]),
            "is_crowds": np.array([[0]]),
        },
        {
            "image_info": np.array([[[375, 500], [750, 1000], [2, 2], [0, 0]]]),
            "num_detections": np.array([1]),
            "detection_boxes": np.array([[[126, 558.5, 504, 1001]]]),
            "detection_classes": np.array([[20]]),
            "detection_scores": np.array([[0.00001]], np.float32),
        },
    )
    path = metric.write_detections(tmp_path, "val")[19]
    assert path.name == "comp4_det_val_tvmonitor.txt"
    assert path.read_text() == "000045 0.00001 280.250 64.000 500.000 252.000\n"


def test_a_detection_of_no_area_is_none():
    """What stems from the empty proposals with which Model Garden fills up."""
    boxes = np.array([[2, 3, 9, 9], [5, 1, 5, 9], [5, 1, 9, 1], [0, 0, 0, 0]], np.float32)
    np.testing.assert_array_equal(has_area(boxes), [True, False, False, False])
