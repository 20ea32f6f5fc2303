"""Reading PASCAL VOC and writing it as records, on a VOCdevkit of three pictures and a real one."""

import collections
import json
import os
import re
from xml.sax.saxutils import escape

import numpy as np
import pytest
import tensorflow as tf
from official.vision.dataloaders.tf_example_decoder import TfExampleDecoder
from PIL import Image
from test_image_headers import png_of_size

from detection.records import annotated, convert, encode
from la_tf.data.voc import (
    VOC_CLASSES,
    VOCError,
    VOCImage,
    id_of,
    number_of,
    read_split,
    require_disjoint,
)

# id -> width, height, objects of (name, box, difficult, truncated).
PICTURES = {
    "000045": (50, 37, [("tvmonitor", (28, 6, 48, 25), 0, 0), ("person", (1, 1, 50, 37), 1, 1)]),
    "000054": (40, 60, []),
    "2008_000001": (33, 20, [("aeroplane", (2, "5.70000076293945", 33, 20), 0, 1)]),
}


def annotation(width, height, objects) -> str:
    parts = "".join(
        f"<object><name>{escape(name)}</name><truncated>{truncated}</truncated>"
        f"<difficult>{difficult}</difficult><bndbox>"
        + "".join(
            f"<{corner}>{value}</{corner}>"
            for corner, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        # The parts of a person have boxes too, which are no objects.
        + "</bndbox><part><name>head</name><bndbox><xmin>0</xmin></bndbox></part></object>"
        for name, box, difficult, truncated in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{parts}</annotation>"


@pytest.fixture
def voc(tmp_path):
    """VOCdevkit/VOC2007 with three pictures, all in the split trainval."""
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for image_id, (width, height, objects) in PICTURES.items():
        pixels = rng.integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"{image_id}.jpg")
        (folder / "Annotations" / f"{image_id}.xml").write_text(annotation(width, height, objects))
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("\n".join(PICTURES) + "\n")
    (folder / "ImageSets" / "Main" / "cat_trainval.txt").write_text("000045  1\n000054 -1\n")
    return folder


@pytest.fixture
def real_voc(sample_data):
    return sample_data / "VOCdevkit" / "VOC2007"


def decoded(records) -> list[dict[str, np.ndarray]]:
    decoder = TfExampleDecoder()
    shards = tf.data.Dataset.list_files(records.pattern, shuffle=False)
    return list(tf.data.TFRecordDataset(shards).map(decoder.decode).as_numpy_iterator())


def test_a_split_is_read_in_the_order_of_its_list(voc):
    images, problems = read_split(voc, "trainval")
    assert not problems
    assert [image.image_id for image in images] == list(PICTURES)
    assert images[0] == VOCImage(
        "000045",
        voc / "JPEGImages" / "000045.jpg",
        width=50,
        height=37,
        boxes=((28, 6, 48, 25), (1, 1, 50, 37)),
        classes=(20, 15),
        difficult=(False, True),
    )
    assert images[1].boxes == () and images[1].classes == ()
    assert images[2].boxes == ((2, 5.70000076293945, 33, 20),)  # a fraction stays one


def test_a_flag_that_is_not_there_is_off(voc):
    path = voc / "Annotations" / "000045.xml"
    path.write_text(re.sub("<difficult>.</.*?>", "", path.read_text()))
    assert read_split(voc, "trainval")[0][0].difficult == (False, False)


def test_the_classes_are_the_twenty_of_voc_by_name():
    assert len(VOC_CLASSES) == 20 and list(VOC_CLASSES) == sorted(VOC_CLASSES)


@pytest.mark.parametrize(
    "image_id, number",
    [("000045", 45), ("009963", 9963), ("2008_000001", 2008000001), ("2011_003353", 2011003353)],
)
def test_ids_are_numbers_and_back(image_id, number):
    assert number_of(image_id) == number
    assert id_of(number) == image_id


@pytest.mark.parametrize("image_id", ["45", "holiday", "000045.jpg", "0000_000045", "00004५"])
def test_other_names_are_no_ids(image_id):
    with pytest.raises(VOCError, match="no id of a VOC image"):
        number_of(image_id)


def rewrite(voc, old: str, new: str) -> None:
    path = voc / "Annotations" / "000045.xml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def shift_picture(voc) -> None:
    Image.new("RGB", (37, 50)).save(voc / "JPEGImages" / "000045.jpg")


# What happens to the image 000045 -> what the error names besides it.
BAD_IMAGES = {
    "annotation gone": (
        lambda voc: (voc / "Annotations" / "000045.xml").unlink(),
        "has no annotation .*000045.xml",
    ),
    "picture gone": (
        lambda voc: (voc / "JPEGImages" / "000045.jpg").unlink(),
        "000045.xml has no picture .*000045.jpg",
    ),
    "picture is text": (
        lambda voc: (voc / "JPEGImages" / "000045.jpg").write_text("no picture"),
        "000045.jpg cannot be read as a picture",
    ),
    "not XML": (lambda voc: rewrite(voc, "</annotation>", ""), "000045.xml cannot be read as XML"),
    "box outside": (
        lambda voc: rewrite(voc, "<xmax>48<", "<xmax>51<"),
        r"\(28, 6, 51, 25\) outside its picture of 50 x 37",
    ),
    "box from 0": (lambda voc: rewrite(voc, "<ymin>6<", "<ymin>0<"), "outside its picture"),
    "no number": (lambda voc: rewrite(voc, "<ymin>6<", "<ymin>nan<"), "outside its picture"),
    "box turned round": (lambda voc: rewrite(voc, "<xmin>28<", "<xmin>49<"), "has no area"),
    "corner is a word": (
        lambda voc: rewrite(voc, "<ymin>6<", "<ymin>six<"),
        "has 'six' as bndbox/ymin",
    ),
    "corner gone": (lambda voc: rewrite(voc, "<ymin>6</ymin>", ""), "has no bndbox/ymin"),
    "unknown class": (
        lambda voc: rewrite(voc, "tvmonitor", "zebra"),
        "000045.xml has an object of the unknown class 'zebra'",
    ),
    "other size": (shift_picture, "says 50 x 37 pixels and its picture has 37 x 50"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_a_bad_image_stops_in_one_sentence_or_is_left_out(voc, case):
    spoil, message = BAD_IMAGES[case]
    spoil(voc)
    with pytest.raises(VOCError, match=message) as raised:
        read_split(voc, "trainval")
    assert str(raised.value).endswith("leave such images out with --skip_bad_images.")
    assert "\n" not in str(raised.value)
    images, problems = read_split(voc, "trainval", skip_bad=True)
    assert [image.image_id for image in images] == ["000054", "2008_000001"]
    assert len(problems) == 1 and re.search(message, problems[0])


def test_a_split_without_one_good_image_is_refused(voc):
    for path in (voc / "Annotations").iterdir():
        path.write_text("")
    with pytest.raises(VOCError, match="no image to use in its split trainval"):
        read_split(voc, "trainval", skip_bad=True)


def test_the_folder_must_be_one_year_of_voc(voc, tmp_path):
    with pytest.raises(VOCError, match=r"JPEGImages, Annotations, ImageSets/Main, .*VOC2007 for"):
        read_split(tmp_path / "nothing", "trainval")
    with pytest.raises(VOCError, match=f"{voc} for example"):  # the way from the folder above
        read_split(voc.parent, "trainval")


@pytest.mark.parametrize(
    "split, content, message",
    [
        ("test", None, "test.txt is not there: choose a split of trainval"),
        ("cat_trainval", None, "does not list one id a line"),
        ("val", "\n", "lists no image"),
        ("val", "000045\n000054\n000045\n", "lists 000045 2 times"),
        ("val", "holiday\n", "'holiday' is no id"),
    ],
)
def test_splits_that_cannot_be_used(voc, split, content, message):
    if content is not None:
        (voc / "ImageSets" / "Main" / f"{split}.txt").write_text(content)
    with pytest.raises(VOCError, match=message):
        read_split(voc, split)


def test_what_is_trained_on_is_not_evaluated_on(voc):
    lists = voc / "ImageSets" / "Main"
    lists.joinpath("test.txt").write_text("000001\n000002\n")
    require_disjoint(voc, "trainval", "test")
    for split in ("trainval", "mine"):
        lists.joinpath("mine.txt").write_text("000001\n000054\n000045\n")
        count, first = (3, "000045") if split == "trainval" else (2, "000054")
        with pytest.raises(
            VOCError, match=f"{count} of .* --test_split={split} are in --train_split=trainval too"
        ) as caught:
            require_disjoint(voc, "trainval", split)
        assert f"{first} for example" in str(caught.value)


def test_every_real_annotation_is_read(real_voc):
    images = [image for split in ("trainval", "test") for image in read_split(real_voc, split)[0]]
    text = "".join(
        (real_voc / "Annotations" / f"{image.image_id}.xml").read_text() for image in images
    )
    assert len(images) == len(list((real_voc / "Annotations").iterdir()))
    # An object's name comes right before its pose, a part's right before its box.
    names = re.findall(r"<name>(\w+)</name>\s*<pose>", text)
    counted = collections.Counter(VOC_CLASSES[label - 1] for i in images for label in i.classes)
    assert counted == collections.Counter(names)
    assert sum(sum(i.difficult) for i in images) == text.count("<difficult>1</difficult>")


def test_the_garden_decodes_what_was_written(voc, tmp_path):
    records = convert(voc, "trainval", tmp_path / "records")
    assert records.num_images == 3
    images, examples = read_split(voc, "trainval")[0], decoded(records)
    assert [id_of(int(example["source_id"])) for example in examples] == list(PICTURES)
    for image, example in zip(images, examples, strict=True):
        np.testing.assert_array_equal(
            example["image"], tf.io.decode_jpeg(image.path.read_bytes(), channels=3)
        )
        assert (example["height"], example["width"]) == (image.height, image.width)
        assert tuple(example["groundtruth_classes"]) == image.classes
        assert tuple(example["groundtruth_is_crowd"]) == image.difficult
    # 28..48 of 50 columns and 6..25 of 37 rows; then all of the picture.
    np.testing.assert_allclose(
        examples[0]["groundtruth_boxes"], [[5 / 37, 27 / 50, 25 / 37, 48 / 50], [0, 0, 1, 1]], 1e-6
    )
    np.testing.assert_allclose(examples[0]["groundtruth_area"], [21 * 20, 50 * 37])
    assert examples[1]["groundtruth_boxes"].shape == (0, 4)


def test_the_pictures_stay_the_bytes_of_their_files(voc):
    image = read_split(voc, "trainval")[0][0]
    example = tf.train.Example.FromString(encode(image, image.path.read_bytes()))
    assert example.features.feature["image/encoded"].bytes_list.value == [image.path.read_bytes()]


def test_real_boxes_survive_the_records_to_the_pixel(real_voc, tmp_path):
    records = convert(real_voc, "val", tmp_path)
    images = read_split(real_voc, "val")[0]
    assert records.num_images == len(images) == 150
    for image, example in zip(images, decoded(records), strict=True):
        size = np.array([image.height, image.width] * 2)
        ymin, xmin, ymax, xmax = (example["groundtruth_boxes"] * size).T
        back = np.stack([xmin + 1, ymin + 1, xmax, ymax], axis=1)
        np.testing.assert_allclose(back, np.reshape(image.boxes, (-1, 4)), atol=5e-4)


def test_annotations_come_back_from_the_records(voc):
    for image in read_split(voc, "trainval")[0]:
        example = tf.train.Example.FromString(encode(image, image.path.read_bytes()))
        boxes, classes = annotated(example)
        np.testing.assert_allclose(boxes, np.reshape(image.boxes, (-1, 4)), atol=5e-4)
        assert tuple(classes) == image.classes


def test_records_are_used_again(voc, tmp_path):
    said = []
    first = convert(voc, "trainval", tmp_path / "records", say=said.append)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "records").rglob("*")}
    assert convert(voc, "trainval", tmp_path / "records", say=said.append) == first
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "records").rglob("*")}
    assert said[0].startswith("Writing 3 images") and said[1].startswith("Using the 3 images")


@pytest.mark.parametrize("old, new", [("<xmin>28<", "<xmin>27<"), ("tvmonitor", "sofa")])
def test_records_of_other_annotations_are_refused(voc, tmp_path, old, new):
    convert(voc, "trainval", tmp_path / "records")
    rewrite(voc, old, new)
    with pytest.raises(VOCError, match="VOC2007-trainval was made from other images or annot"):
        convert(voc, "trainval", tmp_path / "records")
    assert len(list((tmp_path / "records" / "VOC2007-trainval").iterdir())) == 2


def test_a_folder_of_something_else_is_refused_and_kept(voc, tmp_path):
    mine = tmp_path / "VOC2007-trainval" / "diary.txt"
    mine.parent.mkdir()
    mine.write_text("dear diary")
    with pytest.raises(VOCError, match="holds no VOC records"):
        convert(voc, "trainval", tmp_path)
    assert mine.read_text() == "dear diary"


def test_a_damaged_picture_leaves_nothing_or_is_left_out(voc, tmp_path):
    path = voc / "JPEGImages" / "000054.jpg"
    path.write_bytes(path.read_bytes()[:-400])  # its header still reads
    with pytest.raises(VOCError, match=r"000054\.jpg cannot be decoded; repair it"):
        convert(voc, "trainval", tmp_path / "records")
    assert list((tmp_path / "records").iterdir()) == []
    records = convert(voc, "trainval", tmp_path / "records", skip_bad=True)
    assert [int(example["source_id"]) for example in decoded(records)] == [45, 2008000001]
    assert records.num_images == 2 and "000054.jpg" in records.problems[0]
    assert convert(voc, "trainval", tmp_path / "records", skip_bad=True) == records
    with pytest.raises(VOCError, match=r"000054\.jpg cannot be decoded; repair it"):
        convert(voc, "trainval", tmp_path / "records")


def test_many_images_are_several_shards(voc, tmp_path, monkeypatch):
    monkeypatch.setattr("detection.records.IMAGES_PER_SHARD", 2)
    records = convert(voc, "trainval", tmp_path)
    assert len(list((tmp_path / "VOC2007-trainval").glob("*.tfrecord"))) == 2
    assert len(decoded(records)) == 3
    assert json.loads((tmp_path / "VOC2007-trainval" / "records.json").read_text())["images"] == 3


def test_only_regular_files_of_few_pixels_become_records(voc, tmp_path):
    """A pipe would be waited for, and a picture of 400 megapixels would end the process."""
    pipe, large = (voc / "JPEGImages" / f"{name}.jpg" for name in ("000045", "000054"))
    pipe.unlink()
    os.mkfifo(pipe)
    large.write_bytes(png_of_size(20_000, 20_000))
    (voc / "Annotations" / "000054.xml").write_text(annotation(20_000, 20_000, []))
    folder = tmp_path / "records"
    records = convert(voc, "trainval", folder, skip_bad=True, say=lambda sentence: None)
    problems = "\n".join(records.problems)
    assert records.num_images == 1 and f"{pipe} cannot be read" in problems
    assert "400.0 megapixels" in problems or "cannot be read as a picture" in problems
    (voc / "Annotations" / "000045.xml").unlink()
    os.mkfifo(voc / "Annotations" / "000045.xml")
    with pytest.raises(VOCError, match=r"000045\.xml cannot be read as XML .*no regular file"):
        convert(voc, "trainval", tmp_path / "other")
