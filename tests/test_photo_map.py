"""The map of the images: which lie near each other, which are shown, and where."""

import base64
import io
import types
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from la_tf.analysis import photo_map
from la_tf.analysis.images import EmbeddedImages, RunImages
from la_tf.analysis.part import Unavailable
from la_tf.data.base import Subset
from la_tf.data.digits import DigitsSource

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def vectors():
    """120 unit rows in three groups, in turn."""
    rng = np.random.default_rng(0)
    rows = np.eye(3)[np.arange(120) % 3] @ rng.normal(size=(3, 8)) + 0.1 * rng.normal(size=(120, 8))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def part(vectors):
    config = types.SimpleNamespace(
        data=types.SimpleNamespace(image_size=32), schedule=types.SimpleNamespace(seed=0)
    )
    train = Subset(DigitsSource(), range(120))
    run = types.SimpleNamespace(network=None, config=config)
    images = RunImages(run, train, None, lambda sentence: None)
    return photo_map.photo_map_part(images, EmbeddedImages(train, vectors, "the bank"))


def test_groups_stay_together_and_the_map_is_full(vectors):
    points = photo_map.tsne(vectors, seed=3)
    np.testing.assert_allclose(
        [points.min(axis=0), points.max(axis=0)], [[0, 0], [1, 1]], atol=1e-6
    )
    distances = np.linalg.norm(points[:, np.newaxis] - points, axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (distances.argmin(axis=1) % 3 == np.arange(120) % 3).all()
    np.testing.assert_array_equal(photo_map.tsne(vectors, seed=3), points)


def test_pictures_lie_within_the_map_at_their_points_and_cover_none_of_each_other(part, vectors):
    (plot,) = part.plots
    root = ElementTree.fromstring(plot.svg)
    side = 1000 * photo_map.PICTURE_SIDE
    points = side / 2 + (1000 - side) * photo_map.tsne(vectors, seed=0)
    points[:, 1] = 1000 - points[:, 1]
    found = []
    for image in root.iter(f"{SVG}image"):
        x, y, width, height = (float(image.get(k)) for k in ("x", "y", "width", "height"))
        assert width == height <= side and min(x, y) >= 0 and max(x, y) + width <= 1000
        middle = np.array([x, y]) + width / 2
        row = np.linalg.norm(points - middle, axis=1).argmin()
        np.testing.assert_allclose(points[row], middle, atol=0.2)
        picture = Image.open(io.BytesIO(base64.b64decode(image.get("href").partition(",")[2])))
        original = Image.open(io.BytesIO(DigitsSource().read(int(row)))).convert("RGB")
        # 32-pixel images at 32 pixels: a centre crop is the image itself.
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), np.asarray(original))
        found.append(middle)
    apart = np.abs(np.array(found)[:, np.newaxis] - found).max(axis=2)
    assert apart[~np.eye(len(found), dtype=bool)].min() > 0.97 * side
    dots = list(root.iter(f"{SVG}circle"))
    assert len(found) > 5 and len(dots) + len(found) == 120
    assert f"{len(found)} are shown as pictures" in part.caption


def test_what_has_no_map(unit_rows):
    with pytest.raises(Unavailable, match="4 images at least; there are 3"):
        photo_map.tsne(unit_rows(3, 4), 0)
    with pytest.raises(Unavailable, match="collapsed"):
        photo_map.tsne(np.full((10, 4), 0.5, np.float32), 0)
    assert photo_map.tsne(unit_rows(4, 4), 0).shape == (4, 2)
