import io
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from detection.config import DataConfig, DetectionTask, DetectorModel, Parser
from detection.inputs import make_dataset, scale_picture, shuffled
from detection.records import RecordError, Records, encode
from detection.settings import canvas_size
from la_tf.data.voc import VOCImage
from la_tf.errors import first_line

NUM_PICTURES = 5
WIDTH, HEIGHT = 60, 40
# In VOC's pixels: counted from 1, both ends inside.
BOX, DIFFICULT = (11, 6, 30, 20), (41, 21, 60, 40)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def record(number):
    """A black picture with a white object, and a difficult one that stays black."""
    pixels = np.zeros([HEIGHT, WIDTH, 3], np.uint8)
    pixels[BOX[1] - 1 : BOX[3], BOX[0] - 1 : BOX[2]] = 255
    name = f"{number:06d}"
    image = VOCImage(
        image_id=name,
        path=pathlib.Path(f"{name}.png"),
        width=WIDTH,
        height=HEIGHT,
        boxes=(BOX, DIFFICULT),
        classes=(number, 20),
        difficult=(False, True),
    )
    return encode(image, png(pixels))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    for shard, numbers in enumerate(([1, 2, 3], [4, 5])):
        with tf.io.TFRecordWriter(str(folder / f"images-{shard:05d}.tfrecord")) as writer:
            for number in numbers:
                writer.write(record(number))
    return str(folder / "images-*.tfrecord")


@pytest.fixture(scope="module")
def task():
    config = DetectionTask(model=DetectorModel(input_size=[128, 128, 3]), seed=3)
    config.model.anchor.anchor_size = 1.0
    return config


def config_of(records, **kwargs):
    parser = Parser(short_side=80, long_side=110, aug_rand_hflip=kwargs.get("is_training", False))
    return DataConfig(input_path=records, parser=parser, **kwargs)


def take(task, params, count):
    return [
        tf.nest.map_structure(lambda t: t.numpy(), batch)
        for batch in make_dataset(task, params).take(count)
    ]


def expected_size(height, width, short=600, long=1000):
    """The reference's rule in plain Python."""
    scale = short / min(height, width)
    if round(scale * max(height, width)) > long:
        scale = long / max(height, width)
    return round(height * scale), round(width * scale)


@pytest.mark.parametrize(
    ("height", "width"), [(375, 500), (500, 375), (300, 500), (100, 500), (500, 500), (442, 139)]
)
def test_sides_follow_the_reference(height, width):
    canvas = canvas_size(1000)
    assert canvas == 1008
    image = np.full([height, width, 3], 255, np.uint8)
    picture, info = scale_picture(tf.constant(image), 600, 1000, canvas)
    rows, columns = expected_size(height, width)
    np.testing.assert_array_equal(info[:2], [[height, width], [rows, columns]])
    np.testing.assert_allclose(info[2], [rows / height, columns / width], rtol=1e-6)
    seen = picture.numpy() != 0
    assert picture.shape == (1008, 1008, 3)
    assert seen[:rows, :columns].all() and not seen[rows:].any() and not seen[:, columns:].any()
    white = (1 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(picture[0, 0], white, rtol=1e-4)


@pytest.mark.parametrize("is_training", [True, False])
def test_a_line_of_a_picture_keeps_a_pixel_and_its_boxes(tmp_path, task, is_training):
    width, height = 6600, 3  # 110 pixels by 0.05
    picture = VOCImage(
        "000001",
        pathlib.Path("000001.png"),
        width,
        height,
        boxes=((601, 2, 1200, 3),),
        classes=(5,),
        difficult=(False,),
    )
    with tf.io.TFRecordWriter(str(tmp_path / "images-0.tfrecord")) as writer:
        writer.write(encode(picture, png(np.full([height, width, 3], 255, np.uint8))))
    params = config_of(str(tmp_path / "images-*"), is_training=is_training)
    params.parser.aug_rand_hflip = False
    ((image, labels),) = take(task, params, 1)
    info = labels["image_info"][0]
    np.testing.assert_allclose(info[:3], [[3, 6600], [1, 110], [1 / 3, 1 / 60]], rtol=1e-6)
    np.testing.assert_array_equal(np.argwhere(image[0, ..., 0])[-1], [0, 109])
    if is_training:
        np.testing.assert_allclose(labels["gt_boxes"][0, 0], [1 / 3, 10, 1, 20], rtol=1e-5)
        assert (labels["rpn_score_targets"]["4"] == -1).all()  # no anchor fits into it
    else:
        found = labels["groundtruths"]["boxes"][0, 0]
        np.testing.assert_allclose(found, [1, 600, 3, 1200], rtol=1e-5)


def test_boxes_stay_on_their_objects_and_difficult_ones_train_nothing(records, task):
    mirrored = set()
    for image, labels in take(task, config_of(records, is_training=True), 8):
        (top, left, bottom, right), *rest = labels["gt_boxes"][0]
        assert (np.array(rest) == -1).all()
        assert (labels["gt_classes"][0, 1:] == -1).all()
        scale = 110 / WIDTH
        left_edge = (BOX[0] - 1) * scale
        mirrored.add(not np.isclose(left, left_edge, atol=0.5))
        bright = np.argwhere(image[0, :73, :110, 0] > 0)
        np.testing.assert_allclose(bright.min(0), (top, left), atol=1.5)
        np.testing.assert_allclose(bright.max(0) + 1, (bottom, right), atol=1.5)
    assert mirrored == {True, False}


def test_evaluation_goes_through_all_pictures_with_difficult_objects(records, task):
    batches = take(task, config_of(records, is_training=False), 99)
    truths = [labels["groundtruths"] for _, labels in batches]
    assert [int(t["source_id"][0]) for t in truths] == [1, 2, 3, 4, 5]
    for number, truth in enumerate(truths, start=1):
        assert truth["num_detections"] == 2
        np.testing.assert_array_equal(truth["classes"][0, :2], [number, 20])
        np.testing.assert_array_equal(truth["is_crowds"][0, :2], [0, 1])
        expected = [[5, 10, 20, 30], [20, 40, 40, 60]]  # continuous, (y1, x1, y2, x2)
        np.testing.assert_allclose(truth["boxes"][0, :2], expected, atol=1e-4)


def test_the_data_of_a_step_do_not_depend_on_where_a_run_began(records, task):
    params = config_of(records, is_training=True, global_batch_size=2)
    from_start = take(task, params, 6)
    params.first_step = 4
    resumed = take(task, params, 2)
    for before, after in zip(from_start[4:], resumed, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, before, after)


def test_each_picture_once_an_epoch_in_an_order_of_its_own():
    order = [int(shuffled(tf.constant(p, tf.int64), 50, seed=1)) for p in range(150)]
    epochs = [order[i : i + 50] for i in (0, 50, 100)]
    assert all(sorted(e) == list(range(50)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 3
    other = [int(shuffled(tf.constant(p, tf.int64), 50, seed=2)) for p in range(50)]
    assert other != epochs[0]


def test_records_are_read_in_any_order(records):
    source = Records(records)
    assert len(source) == NUM_PICTURES
    for number in (5, 1, 4):
        assert source.read(number - 1) == record(number)


def test_a_shard_cut_short_is_refused(records, tmp_path):
    whole = next(iter(tf.io.gfile.glob(records)))
    with open(whole, "rb") as file:
        (tmp_path / "images-00000.tfrecord").write_bytes(file.read()[:-7])
    with pytest.raises(RecordError, match=r"images-00000\.tfrecord is cut short"):
        Records(str(tmp_path / "images-*.tfrecord"))
    with pytest.raises(RecordError, match="there are no "):
        Records(str(tmp_path / "other-*"))


def test_a_damaged_record_is_named_and_the_others_are_read(records, task, tmp_path):
    """One bit of a picture's bytes, which a decoder might pass over."""
    whole = bytearray(pathlib.Path(next(iter(tf.io.gfile.glob(records)))).read_bytes())
    whole[len(whole) // 2] ^= 1
    (tmp_path / "images-00000.tfrecord").write_bytes(whole)
    source = Records(str(tmp_path / "images-*.tfrecord"))
    assert source.read(0) == record(1) and source.read(2) == record(3)
    with pytest.raises(RecordError, match=r"images-00000\.tfrecord is damaged at byte \d+: remove"):
        source.read(1)
    with pytest.raises(tf.errors.OpError) as caught:
        take(task, config_of(str(tmp_path / "images-*"), is_training=False), 3)
    assert re.search(r"images-00000\.tfrecord is damaged at byte", first_line(caught.value))
