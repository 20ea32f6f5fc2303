"""Images that cannot be decoded are found, counted and named."""

import io
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from la_tf.config import AugmentConfig
from la_tf.data.base import DataError
from la_tf.data.checks import (
    check_images,
    find_bad_images,
    keep_good_images,
    refuse_bad_images,
    survey,
)
from la_tf.data.pipeline import Steps, step_indices, train_dataset
from la_tf.data.sources import open_source

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
    kept = keep_good_images(open_source(str(folder)), True, said.append)
    assert kept.num_examples == 12
    assert keep_good_images(kept, False, said.append) is kept
    (sentence,) = said
    assert str(folder / "page.jpg") in sentence and sentence.endswith("left out.")


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
