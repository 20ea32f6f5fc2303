"""Frames where the boxes are, names inside the picture."""

import itertools

import numpy as np
import pytest
from PIL import Image

from detection.drawing import colour_of, draw_boxes
from la_tf.data.voc import VOC_CLASSES, read_split

GREY = (128, 128, 128)
LABEL_ROWS = 18  # where the shorter side has 256 to 375 pixels


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def changed(drawing: Image.Image) -> np.ndarray:
    return (np.asarray(drawing) != GREY).any(axis=-1)


def test_the_frame_lies_on_the_first_and_last_pixel_of_the_box():
    picture = grey(500, 375)
    drawing = np.asarray(draw_boxes(picture, np.array([[101, 151, 300, 350]]), np.array([20])))
    assert picture.getpixel((100, 200)) == GREY  # the picture itself is left alone
    colour = colour_of(20)
    # Columns 100..299 and rows 150..349, counted from 0.
    assert (drawing[200, [100, 299]] == colour).all() and (drawing[[150, 349], 250] == colour).all()
    # One dark pixel around, then the picture as it was; inside too.
    assert (drawing[200, [99, 300]] == 0).all() and (drawing[350, 250] == 0).all()
    assert (drawing[200, [98, 301]] == GREY).all() and (drawing[351, 250] == GREY).all()
    assert (drawing[200, 110:290] == GREY).all()


def test_a_small_picture_is_enlarged_by_a_whole_number():
    drawing = draw_boxes(grey(100, 60), np.array([[11, 21, 60, 40]]), np.array([1]))
    assert drawing.size == (500, 300)
    pixels = np.asarray(drawing)
    # Column 11 of VOC is 10 from 0, so 50..54 in the drawing; column 60 is 295..299.
    assert (pixels[150, [50, 299]] == colour_of(1)).all()
    assert (pixels[150, [48, 301]] == GREY).all()


@pytest.mark.parametrize("width, height", [(256, 256), (500, 375), (2000, 300), (32, 32)])
def test_a_name_stays_inside_whatever_the_corner(width, height):
    """What a box of one pixel has for a label in the middle, it has in every corner."""

    def draw(x, y) -> np.ndarray:
        box, score = np.array([[x, y, x, y]]), np.array([0.98])
        return np.asarray(draw_boxes(grey(width, height), box, np.array([11]), score))

    label = cut_label(draw(width // 2, height // 2), 11)
    assert label.shape[1] > 80
    for x, y in itertools.product((1, width // 2, width), (1, height // 2, height)):
        assert shows(draw(x, y), label), (x, y)


def cut_label(drawing: np.ndarray, number: int) -> np.ndarray:
    """The label of the only box, found by its upper margin, which is free of letters."""
    mask = (drawing == colour_of(number)).all(axis=-1)
    row = int(np.flatnonzero(mask.any(axis=1))[0])
    columns = np.flatnonzero(mask[row])
    return drawing[row : row + LABEL_ROWS, columns[0] : columns[-1] + 1]


def shows(drawing: np.ndarray, label: np.ndarray) -> bool:
    """Whether a label is there, all of it."""
    height, width = label.shape[:2]
    for top in range(len(drawing) - height + 1):
        left = drawing[top].tobytes().find(label[0].tobytes()) // 3
        if left >= 0 and np.array_equal(drawing[top : top + height, left : left + width], label):
            return True
    return False


def test_the_frame_of_a_tiny_box_stays_in_it():
    drawing = np.asarray(draw_boxes(grey(500, 375), np.array([[200, 200, 201, 200]]), [11]))
    below_label = (drawing == colour_of(11)).all(axis=-1)[199:]
    np.testing.assert_array_equal(np.argwhere(below_label), [[0, 199], [0, 200]])


def test_the_best_detection_is_on_top():
    box = np.array([[50, 100, 200, 220]] * 2)
    for scores in ([0.9, 0.1], [0.1, 0.9]):
        drawing = draw_boxes(grey(300, 300), box, np.array([1, 2]), np.array(scores))
        assert drawing.getpixel((49, 150)) == colour_of(1 if scores[0] > scores[1] else 2)


def test_names_do_not_cover_each_other_where_there_is_room():
    # Two boxes in one place, and one as far below as a label is high.
    boxes = np.array([[50, 100, 200, 220], [50, 100, 200, 220], [50, 118, 200, 238]])
    together = np.asarray(draw_boxes(grey(300, 300), boxes, np.array([1, 2, 3])))
    for number in (1, 2, 3):
        alone = draw_boxes(grey(300, 300), np.array([[50, 100, 50, 100]]), np.array([number]))
        assert shows(together, cut_label(np.asarray(alone), number))


def test_names_and_scores_differ_in_what_is_drawn():
    box = np.array([[50, 100, 200, 220]])
    drawings = [
        np.asarray(draw_boxes(grey(300, 300), box, np.array([label]), scores))
        for label, scores in itertools.product(
            range(1, 21), (None, np.array([0.5]), np.array([0.75]))
        )
    ]
    for a, b in itertools.combinations(drawings, 2):
        assert (a != b).any()


def test_no_boxes_is_the_picture_in_rgb():
    picture = Image.new("L", (300, 300), 128)
    assert not changed(draw_boxes(picture, np.zeros((0, 4)), np.zeros(0, int))).any()


def test_boxes_beyond_the_picture_are_drawn_at_its_border():
    drawing = draw_boxes(grey(300, 300), np.array([[-20, 50, 400, 250]]), np.array([3]))
    assert drawing.getpixel((0, 150)) == drawing.getpixel((299, 150)) == colour_of(3)


@pytest.mark.parametrize("label", [0, 21])
def test_the_background_is_no_class(label):
    with pytest.raises(ValueError, match=r"labels must lie in 1\.\.20"):
        draw_boxes(grey(300, 300), np.array([[1, 1, 9, 9]]), np.array([label]))


def test_every_class_has_a_colour_of_its_own():
    colours = [np.array(colour_of(label), int) for label in range(1, len(VOC_CLASSES) + 1)]
    for a, b in itertools.combinations(colours, 2):
        assert np.abs(a - b).max() >= 24, (a, b)


def test_real_objects_are_framed_in_their_colours(sample_data):
    for image in read_split(sample_data / "VOCdevkit" / "VOC2007", "val")[0][:10]:
        with Image.open(image.path) as picture:
            drawing = draw_boxes(picture, np.array(image.boxes), np.array(image.classes))
        assert drawing.size == (image.width, image.height)
        # The last object is drawn last, so that names alone can cover its frame.
        xmin, ymin, xmax, ymax = (int(corner) for corner in image.boxes[-1])
        pixels = np.asarray(drawing)
        frame = [*pixels[ymin - 1 : ymax, xmax - 1], *pixels[ymax - 1, xmin - 1 : xmax]]
        assert (np.array(frame) == colour_of(image.classes[-1])).all(axis=-1).mean() > 0.5
