"""Images that cannot be decoded are found, counted and named."""

import io
import os
import pathlib
import shutil
import struct
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from test_image_headers import gif_with_frame, png_of_size

from la_tf.config import AugmentConfig, Config, DataConfig
from la_tf.data.base import DataError
from la_tf.data.checks import (
    check_images,
    find_bad_images,
    keep_good_images,
    refuse_bad_images,
    survey,
)
from la_tf.data.pipeline import Steps, step_indices, train_dataset
from la_tf.data.record_writer import write_records
from la_tf.data.sources import open_source
from la_tf.export.run import sample_pictures

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


def encode(kind: str, seed: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """Twelve images, three of each format."""
    for i in range(3):
        for kind in ("JPEG", "PNG", "GIF", "BMP"):
            name = f"{kind.lower()}{i}.{kind.lower().replace('jpeg', 'jpg')}"
            (tmp_path / name).write_bytes(encode(kind, i))
    return tmp_path


BAD = {
    "empty.jpg": b"",
    "half.jpg": encode("JPEG", 1)[: len(encode("JPEG", 1)) // 2],
    "half.png": encode("PNG", 2)[:900],
    "page.jpg": b"<html>not found</html>",
    "short.bmp": encode("BMP", 3)[:-50],
}


# 0: the cheap check, as for millions of images; 1000: every image is decoded.
@pytest.mark.parametrize("decode_up_to", [0, 1000])
def test_good_images_pass(folder, decode_up_to):
    source = open_source(str(folder))
    # Cameras pad their files; no image may be called bad for that.
    padded = folder / "padded.jpg"
    padded.write_bytes(encode("JPEG") + bytes(10_000))
    source = open_source(str(folder))
    result = check_images(source, decode_up_to=decode_up_to)
    assert result.source is source
    assert result.bad == ()
    assert result.decoded == bool(decode_up_to)
    assert "13 images" in str(result)


@pytest.mark.parametrize("decode_up_to", [0, 1000])
def test_bad_images_are_counted_and_named_or_left_out(folder, decode_up_to):
    good = [path.name for path in folder.iterdir()]
    for name, content in BAD.items():
        (folder / name).write_bytes(content)
    source = open_source(str(folder))
    with pytest.raises(DataError) as error:
        check_images(source, decode_up_to=decode_up_to)
    message = str(error.value)
    assert "5 images:" in message
    assert "and 2 more" in message
    assert "--skip_bad_images" in message
    assert str(folder / "empty.jpg") in message
    result = check_images(source, skip_bad=True, decode_up_to=decode_up_to)
    assert {os.path.basename(image.name) for image in result.bad} == set(BAD)
    assert all(source.describe(image.index) == image.name for image in result.bad)
    left = [os.path.basename(result.source.describe(i)) for i in range(len(good))]
    assert left == sorted(good)
    assert result.source.num_examples == len(good)
    assert "5 images:" in str(result)
    assert check_images(result.source, decode_up_to=decode_up_to).bad == ()


def test_what_is_left_out_is_said_and_nothing_else(folder):
    (folder / "page.jpg").write_bytes(BAD["page.jpg"])
    said = []
    skipping = DataConfig(skip_bad_images=True)
    kept = keep_good_images(open_source(str(folder)), skipping, said.append)
    assert kept.num_examples == 12
    assert keep_good_images(kept, DataConfig(), said.append) is kept
    (sentence,) = said
    assert str(folder / "page.jpg") in sentence and sentence.endswith("left out.")


# What is small on the disk and would take gigabytes, or hours, to decode.
LARGE = {
    "large.png": png_of_size(20_000, 20_000),
    "large.gif": gif_with_frame(60_000, 60_000, encoded_as=(30, 20)),
    # The size of a JPEG stands behind a profile that is longer than what is read of it at first.
    "large.jpg": encode("JPEG").replace(
        b"\xff\xdb", (b"\xff\xe2\x20\x00" + bytes(0x1FFE)) * 2 + b"\xff\xdb", 1
    ),
}


@pytest.fixture
def hostile(folder) -> pathlib.Path:
    """Twelve images, and what may neither be opened nor decoded."""
    size = LARGE["large.jpg"].index(b"\xff\xc0") + 5
    for name, content in LARGE.items():
        (folder / name).write_bytes(content)
    with (folder / "large.jpg").open("r+b") as file:
        file.seek(size)
        file.write(struct.pack(">HH", 60_000, 60_000))
    os.mkfifo(folder / "pipe.jpg")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "nothing.bmp").symlink_to(folder / "gone")
    (folder / "folder.jpg").mkdir()
    (folder / "folder.jpg" / "text.txt").write_text("x")
    return folder


REASONS = {
    "device.png": "is no regular file",
    "folder.jpg": "is a folder",
    "large.gif": "has 3600.0 megapixels, more than the 150 allowed by --max_megapixels",
    "large.jpg": "has 3600.0 megapixels, more than the 150 allowed by --max_megapixels",
    "large.png": "has 400.0 megapixels, more than the 150 allowed by --max_megapixels",
    "nothing.bmp": "No such file or directory",
    "pipe.jpg": "is no regular file",
}


@pytest.mark.parametrize("decode_up_to", [0, 1000])
def test_only_regular_files_of_few_pixels_are_opened_and_decoded(hostile, decode_up_to):
    source = open_source(str(hostile))
    found = check_images(source, skip_bad=True, decode_up_to=decode_up_to)
    assert {os.path.basename(bad.name): bad.reason for bad in found.bad} == REASONS
    assert found.source.num_examples == 12
    with pytest.raises(DataError, match=rf"7 images: {hostile}/device\.png \(is no regular file\)"):
        check_images(source, decode_up_to=decode_up_to)


def test_an_export_is_not_tried_on_what_may_not_be_decoded(tmp_path):
    (tmp_path / "large.png").write_bytes(LARGE["large.png"])
    config = Config(data=DataConfig(data=str(tmp_path)))
    pictures, what = sample_pictures(types.SimpleNamespace(config=config))
    assert len(pictures) == 1 and what.startswith("a generated image")


def test_what_may_not_be_decoded_is_in_a_survey_and_is_found_again(hostile):
    source = open_source(str(hostile))
    found = survey(source)
    assert {os.path.basename(bad.name): bad.reason for bad in found.bad} == REASONS
    assert found.sizes == {(30, 40): 12}
    allowed = {name: reason.replace("150", "170") for name, reason in REASONS.items()}
    again = find_bad_images(source, range(len(source)))
    assert {os.path.basename(bad.name): bad.reason for bad in again} == allowed


def test_every_tool_that_takes_a_data_set_names_them_and_ends(hostile, tmp_path, run_tool):
    code, stdout, _ = run_tool("check_data", f"--data={hostile}")
    assert code == 1
    for name, reason in REASONS.items():
        assert f"BAD {hostile / name}: {reason}\n" in stdout
    records = tmp_path / "records"
    flags = f"--data={hostile}", f"--output_dir={records}"
    code, _, stderr = run_tool("make_tfrecords", *flags)
    assert code == 1 and "7 images: " in stderr and not records.exists()
    code, stdout, _ = run_tool("make_tfrecords", *flags, "--skip_bad_images")
    assert code == 0 and "7 images: " in stdout and "left out" in stdout
    assert open_source(str(records)).num_examples == 12
    flags = f"--data={hostile}", f"--run_dir={tmp_path / 'run'}", "--network=smallnet"
    code, _, stderr = run_tool("train", *flags)
    assert code == 1 and "device.png (is no regular file)" in stderr and stderr.count("\n") == 1


@pytest.mark.parametrize("decode_up_to", [0, 1000])
def test_a_limit_on_pixels_holds_in_every_format(folder, decode_up_to):
    source = open_source(str(folder))  # of 40 x 30 pixels each
    assert check_images(source, False, 0.0012, decode_up_to).bad == ()
    with pytest.raises(DataError, match="no image that can be decoded: 12 images"):
        check_images(source, False, 0.00119, decode_up_to)
    with pytest.raises(DataError, match="no image that can be decoded: 12 images"):
        keep_good_images(source, DataConfig(max_megapixels=0.00119), print)


def test_large_pictures_in_records_are_named(folder, tmp_path):
    for name, content in LARGE.items():
        (folder / name).write_bytes(content)
    records = str(tmp_path / "records")
    write_records(open_source(str(folder)), records)
    for decode_up_to in (0, 1000):
        found = check_images(open_source(records), skip_bad=True, decode_up_to=decode_up_to)
        assert [bad.name.split()[0] for bad in found.bad] == ["large.gif", "large.png"]


def test_a_class_may_have_the_name_of_an_image(tmp_path):
    for name in ("cats.jpg", "dogs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(encode("PNG"))
    assert open_source(str(tmp_path)).class_names == ("cats.jpg", "dogs")


def test_nothing_but_bad_images_cannot_be_skipped(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match="no image that can be decoded"):
        check_images(open_source(str(tmp_path)), skip_bad=True)


def test_damage_inside_a_file_stops_training_and_can_be_named(folder):
    damaged = bytearray(encode("PNG", 9, (200, 200)))
    damaged[5000:5100] = bytes(100)
    (folder / "inside.png").write_bytes(damaged)
    source = open_source(str(folder))
    assert check_images(source, decode_up_to=0).bad == ()
    steps = Steps(0, 4, batch_size=3, seed=0)
    batches = train_dataset(source, steps, image_size=8, augment=AugmentConfig())
    done = 0
    with pytest.raises(tf.errors.InvalidArgumentError):
        for _ in batches:
            done += 1
    (bad,) = find_bad_images(source, step_indices(13, 3, 0, done))
    assert bad.name == str(folder / "inside.png")
    assert bad.reason
    with pytest.raises(DataError, match=r"stopped: .*inside\.png cannot be decoded \(.+\)"):
        refuse_bad_images(source, [0, bad.index], "stopped: ")
    refuse_bad_images(source, np.delete(np.arange(13), bad.index))


def test_file_that_vanished_is_bad(folder):
    source = open_source(str(folder))
    (folder / "png0.png").unlink()
    for decode_up_to in (0, 1000):
        (bad,) = check_images(source, skip_bad=True, decode_up_to=decode_up_to).bad
        assert bad.name.endswith("png0.png")


def test_survey(folder):
    (folder / "small.png").write_bytes(encode("PNG", 0, (7, 9)))
    (folder / "half.jpg").write_bytes(BAD["half.jpg"])
    found = survey(open_source(str(folder)))
    assert found.formats == {"JPEG": 3, "PNG": 4, "GIF": 3, "BMP": 3}
    assert found.sizes == {(30, 40): 12, (9, 7): 1}
    assert [image.name for image in found.bad] == [str(folder / "half.jpg")]


def test_tool_lists_what_there_is_and_fails_on_bad_images(folder, run_tool):
    (folder / "half.jpg").write_bytes(BAD["half.jpg"])
    code, stdout, _ = run_tool("check_data", f"--data={folder}", fresh=True)
    assert code == 1
    assert "train: 13 images" in stdout
    assert "no labels" in stdout
    assert "short side 0..31 pixels: 12" in stdout
    assert f"BAD {folder / 'half.jpg'}" in stdout
    code, _, stderr = run_tool("check_data", f"--data={folder / 'nowhere'}")
    assert code == 1
    assert stderr.strip().startswith("error: ")
    assert len(stderr.strip().splitlines()) == 1


def test_tool_names_the_pictures_that_are_not_read(tmp_path, run_tool):
    picture = Image.fromarray(np.zeros((8, 9, 3), np.uint8))
    for i in range(5):
        picture.save(tmp_path / f"{i}.webp")
    picture.save(tmp_path / "one.png")
    code, stdout, _ = run_tool("check_data", f"--data={tmp_path}")
    assert code == 0 and "train: 1 images" in stdout
    assert "5 .webp; convert them to JPEG or PNG." in stdout
    said = []
    keep_good_images(open_source(str(tmp_path)), DataConfig(), said.append)
    assert len(said) == 1 and "5 .webp" in said[0]
    shutil.copy(tmp_path / "0.webp", tmp_path / "called.png")
    code, stdout, _ = run_tool("check_data", f"--data={tmp_path}")
    assert code == 1 and "called.png: is a WebP picture, which TensorFlow does not" in stdout
