"""The exported detector and tools/detect.py, with a head whose answers are known."""

import io
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import ExifTags, Image, ImageOps
from test_image_headers import png_of_size

from detection.drawing import colour_of, draw_boxes
from detection.export import detect_above, export_detector, load_detector
from detection.photographs import open_upright
from detection.settings import Settings, Start, make_experiment
from detection.task import VOCDetectionTask
from la_tf.export.saved_model import ExportError

WIDTH, HEIGHT = 120, 90
# Of VOC's classes, in its order; the background, before them, is 0.
LABELS = np.arange(1, 21)
SCORES = (1 + LABELS) / 231  # the background has 1 / 231
SHARES = 1 - LABELS / 40  # of the proposal's sides


def encoded(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def pixels():
    """Noise without the colours of frames and labels."""
    return np.random.default_rng(0).integers(100, 150, (HEIGHT, WIDTH, 3), np.uint8)


def build():
    settings = Settings(short_side=96, long_side=96, anchor_size=24)
    start = Start("random", "resnet18", 224, 0, "untrained")
    config = make_experiment(start, settings, "", "").task
    config.model.roi_generator.test_num_proposals = 1
    tf.keras.utils.set_random_seed(0)
    return VOCDetectionTask(config).build_model(), config


@pytest.fixture(scope="module")
def export(pixels, tmp_path_factory):
    """Of one proposal, each class has a score and a box that tell which it is."""
    model, config = build()
    (head,) = model.detection_head
    layers = {layer.name: layer for layer in head.submodules}
    scores, boxes = layers["detection-scores"], layers["detection-boxes"]
    scores.set_weights([np.zeros(scores.kernel.shape), np.log(np.append(1, 1 + LABELS))])
    # Height and width, as Faster R-CNN codes them: 5 log(side / side of the proposal).
    sides = 5 * np.log(np.append(1, SHARES))[:, np.newaxis] * [0, 0, 1, 1]
    boxes.set_weights([np.zeros(boxes.kernel.shape), sides.reshape(-1)])
    folder = tmp_path_factory.mktemp("export")
    export_detector(model, config, folder, encoded(pixels))
    return folder


@pytest.fixture(scope="module")
def detect(export):
    return load_detector(export)


def test_classes_have_vocs_numbers(detect, pixels):
    found = detect(encoded(pixels))
    assert found["num_detections"] == 20
    np.testing.assert_array_equal(found["classes"], LABELS[::-1])  # the most certain first
    np.testing.assert_allclose(found["scores"], SCORES[::-1], rtol=1e-4)
    # And each class has its own box.
    boxes = found["boxes"] - [1, 1, 0, 0]
    sides = (boxes[:, 2:] - boxes[:, :2]) / SHARES[::-1, np.newaxis]
    centres = (boxes[:, 2:] + boxes[:, :2]) / 2
    for values in (sides, centres):
        np.testing.assert_allclose(values, np.broadcast_to(values[0], values.shape), atol=0.01)
    assert (sides[0] > 10).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 4000), (4000, 3)])
def test_a_line_of_a_picture_has_its_boxes_inside(detect, size):
    found = detect(encoded(np.full((*size, 3), 200, np.uint8)))
    boxes = found["boxes"]
    assert len(boxes) == found["num_detections"] and np.isfinite(boxes).all()
    assert (boxes >= 1).all() and (boxes <= [size[1], size[0]] * 2).all()


def test_a_batch_finds_what_each_picture_alone_does(export, detect, pixels):
    """As TensorFlow Serving sends them: rows, or requests of several clients together."""
    tall = encoded(np.swapaxes(pixels, 0, 1)[:, ::-1])
    images = [encoded(pixels), tall, encoded(pixels)]
    loaded = tf.saved_model.load(str(export / "1"))
    together = loaded.signatures["serving_default"](image_bytes=tf.constant(images))
    assert together["boxes"].shape == [3, 100, 4]
    for row, image in enumerate(images):
        alone = detect(image)
        count = alone["num_detections"]
        assert together["num_detections"][row] == count == 20
        for name in ("boxes", "classes", "scores"):
            np.testing.assert_allclose(together[name][row, :count], alone[name], atol=1e-4)
            assert not together[name][row, count:].numpy().any()


def test_a_photograph_is_turned_by_the_export_itself(detect, pixels):
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = 6
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", exif=tags)
    upright = ImageOps.exif_transpose(Image.open(file))
    found, expected = detect(file.getvalue()), detect(encoded(np.asarray(upright)))
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=0.5)
    as_stored = detect(encoded(np.asarray(Image.open(file))))
    assert np.abs(found["boxes"] - as_stored["boxes"]).max() > 5


def test_an_export_that_takes_one_image_is_served_too(tmp_path):
    """As earlier versions wrote them."""
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="image_bytes")])
    def detect_one(image_bytes):
        score = tf.cast(tf.strings.length(image_bytes), tf.float32) / 10
        return {
            "boxes": tf.constant([[1.0, 2.0, 3.0, 4.0]]),
            "classes": tf.constant([7]),
            "scores": score[tf.newaxis],
            "num_detections": tf.constant(1),
        }

    tf.saved_model.save(module, str(tmp_path / "1"), {"serving_default": detect_one})
    boxes, classes, scores = detect_above(load_detector(tmp_path), b"five.", 0.1)
    np.testing.assert_allclose(scores, [0.5])
    assert boxes.tolist() == [[1, 2, 3, 4]] and classes.tolist() == [7]


def test_a_photograph_is_turned_as_it_was_held(pixels, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # held so that it has to be turned clockwise
    path = tmp_path / "phone.png"
    Image.fromarray(pixels).save(path, exif=exif)
    expected = np.rot90(pixels, -1)
    picture, upright = open_upright(path)
    np.testing.assert_array_equal(np.asarray(picture), expected)
    np.testing.assert_array_equal(tf.io.decode_image(upright), expected)
    path.write_bytes(encoded(pixels))
    assert open_upright(path)[1] == encoded(pixels)


def test_a_photograph_that_may_not_be_decoded_is_named(tmp_path):
    large, pipe = tmp_path / "large.png", tmp_path / "pipe.jpg"
    large.write_bytes(png_of_size(20_000, 20_000))
    os.mkfifo(pipe)
    for path, words in ((large, "it has 400.0 megapixels"), (pipe, "is no regular file")):
        with pytest.raises(ValueError, match=f"^{path} cannot be read: {words}"):
            open_upright(path)


@pytest.mark.slow
def test_a_folder_of_photographs(export, detect, pixels, tmp_path, run_tool):
    folder = tmp_path / "phone"
    folder.mkdir()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(pixels).save(folder / "held.JPG", exif=exif)
    (folder / "plain.png").write_bytes(encoded(pixels))
    (folder / "damaged.jpg").write_bytes(encoded(pixels)[:200])
    (folder / "notes.txt").write_text("no picture")
    (folder / "new.WEBP").write_bytes(b"RIFF")
    (folder / "._held.JPG").write_bytes(b"what macOS puts beside a file")
    (folder / "old.tif").mkdir()
    code, stdout, stderr = run_tool(
        "detect", f"--export_dir={export}", f"--image={folder}", "--min_score=0"
    )
    assert code == 1 and len(stderr.splitlines()) == 1 and "damaged.jpg cannot be" in stderr
    drawings = tmp_path / "phone-boxes"
    assert {path.name for path in drawings.iterdir()} == {"held.JPG.png", "plain.png.png"}
    with Image.open(drawings / "held.JPG.png") as drawing:
        assert drawing.size == (HEIGHT * 3, WIDTH * 3)  # upright, and enlarged for the labels
    found = detect(open_upright(folder / "held.JPG")[1])["boxes"][0]
    left_out, first = stdout.splitlines()[:2]
    assert left_out == f"not read in {folder}: 1 .webp; convert them to JPEG or PNG."
    assert first.split("tvmonitor")[1].split() == ", ".join(f"{side:.0f}" for side in found).split()


@pytest.mark.slow
def test_the_old_export_stays_where_the_new_one_cannot_be_moved(export, tmp_path, monkeypatch):
    target = tmp_path / "export" / "1"
    shutil.copytree(export, target.parent)
    before = (target / "saved_model.pb").read_bytes()
    move = os.replace

    def replace(source, destination):
        if destination == target and source.name == "1":
            raise OSError(28, "No space left on device")
        move(source, destination)

    model, config = build()
    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(ExportError, match="No space left"):
        export_detector(model, config, target.parent, encoded(np.zeros([8, 8, 3], np.uint8)))
    assert [path.name for path in target.parent.iterdir()] == ["1"]
    assert (target / "saved_model.pb").read_bytes() == before


def test_a_line_of_a_picture_is_not_enlarged_beyond_measure():
    drawing = draw_boxes(Image.new("RGB", (100_000, 20)), np.array([[11, 3, 90_000, 9]]), [20])
    assert drawing.size == (200_000, 40)  # 13 times as large it would have a gigabyte
    # Column 90,000 of VOC is 179,998 and 179,999 here.
    assert drawing.getpixel((179_999, 11)) == colour_of(20) != drawing.getpixel((180_002, 11))


@pytest.mark.slow
def test_boxes_are_drawn_into_a_picture_and_nothing_else(
    export, detect, pixels, tmp_path, run_tool
):
    image, output = tmp_path / "picture.png", tmp_path / "drawing.png"
    image.write_bytes(encoded(pixels))
    flags = (f"--export_dir={export}", f"--image={image}", f"--output={output}")
    code, stdout, stderr = run_tool("detect", *flags, "--min_score=0.089")
    assert code == 0, stderr
    (box,) = detect(encoded(pixels))["boxes"][:1]
    assert stdout.splitlines() == [
        f"0.09  tvmonitor     {', '.join(f'{side:.0f}' for side in box)}",
        f"1 object with a score of at least 0.089: {output}",
    ]
    before = pixels.repeat(3, axis=0).repeat(3, axis=1)  # up to 256 pixels at least
    with Image.open(output) as drawing:
        after = np.asarray(drawing)
    changed = (after != before).any(axis=-1)

    left, top = np.rint((box[:2] - 1) * 3).astype(int)
    right, bottom = np.rint(box[2:] * 3).astype(int) - 1
    # Two pixels of colour, and a dark one on both sides of them.
    frame = np.zeros_like(changed)
    frame[max(0, top - 1) : bottom + 2, max(0, left - 1) : right + 2] = True
    frame[top + 3 : bottom - 2, left + 3 : right - 2] = False
    assert changed[frame].all()
    rows, columns = np.nonzero(changed & ~frame)
    label = np.zeros_like(changed)
    label[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    np.testing.assert_array_equal(changed, frame | label)
    assert np.ptp(rows) < 20 and 60 < np.ptp(columns) < 160
    coloured = (after == colour_of(20)).all(axis=-1)
    assert coloured[label].mean() > 0.5
    line = np.zeros_like(changed)
    line[top : bottom + 1, [left, right]] = line[[top, bottom], left : right + 1] = True
    assert coloured[line & ~label].all()


def test_what_is_no_picture_is_one_sentence(export, detect, pixels, tmp_path, run_tool):
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    code, _, stderr = run_tool("detect", f"--export_dir={export}", f"--image={text}")
    assert (code, len(stderr.splitlines())) == (1, 1) and f"{text} cannot be read" in stderr
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "gone.jpg").symlink_to("nowhere")
    code, _, stderr = run_tool("detect", f"--export_dir={export}", f"--image={folder}")
    assert (code, len(stderr.splitlines())) == (1, 1) and "gone.jpg cannot be read" in stderr
    with pytest.raises(ValueError, match="no whole JPEG or PNG"):
        detect_above(detect, encoded(pixels)[:-500], 0.5)


@pytest.mark.slow
def test_what_is_no_whole_export_is_one_sentence(export, pixels, tmp_path, run_tool):
    with pytest.raises(ExportError, match="holds no SavedModel"):
        load_detector(tmp_path)
    copy = tmp_path / "export"
    shutil.copytree(export, copy)
    weights = copy / "1" / "variables" / "variables.data-00000-of-00001"
    whole = weights.read_bytes()
    for size in (0, 1000, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:size])
        with pytest.raises(ExportError, match=r"export/1 cannot be loaded \(.+\): restore it"):
            load_detector(copy)
    image = tmp_path / "picture.png"
    image.write_bytes(encoded(pixels))
    code, _, stderr = run_tool("detect", f"--export_dir={copy}", f"--image={image}")
    assert (code, len(stderr.splitlines())) == (1, 1) and "cannot be loaded" in stderr
