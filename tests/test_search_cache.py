"""The cache of a gallery: what changed is embedded again and nothing else, after kills too."""

import hashlib
import io
import os
import sqlite3

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from PIL import Image
from test_image_headers import png_of_size

from la_tf.data.augment import center_view
from la_tf.data.base import DataError, Source
from la_tf.embedding.embedding_model import EmbeddingError, EmbeddingModel, export_model, run_model
from la_tf.export.saved_model import export_saved_model
from la_tf.networks import build_network
from la_tf.runs.trained_run import open_run
from la_tf.search.cache import default_cache_dir
from la_tf.search.gallery import Gallery, open_gallery
from la_tf.search.picture_files import PictureFiles


def of_bytes(encoded: bytes) -> np.ndarray:
    """A unit vector that stands for these bytes."""
    vector = np.frombuffer(hashlib.sha256(encoded).digest(), np.uint8).astype(np.float32)
    return vector / np.linalg.norm(vector)


def of_source(source: Source):
    for start in range(0, len(source), 128):
        rows = range(start, min(start + 128, len(source)))
        yield np.stack([of_bytes(source.read(i)) for i in rows])


# Embeds bytes instead of pictures: what is at stake is which of them, and when.
MODEL = EmbeddingModel({"kind": "bytes"}, of_source)


def bmp(colour: int) -> bytes:
    """Every one has the same size in bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (colour, 255 - colour, 77)).save(buffer, "BMP")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """20 pictures."""
    folder = tmp_path / "gallery"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i:02}.bmp").write_bytes(bmp(i))
    return folder


@pytest.fixture
def opened(folder, tmp_path):
    """Opens the gallery and holds its vectors against the files; keeps what was said."""

    def opened(expected_new: int, model: EmbeddingModel = MODEL) -> Gallery:
        opened.said = []
        cache_dir = str(tmp_path / "cache")
        gallery = open_gallery(model, PictureFiles(str(folder)), cache_dir, opened.said.append)
        bad = {image.name for image in gallery.left_out}
        files = [path for path in sorted(folder.rglob("*.bmp")) if str(path) not in bad]
        assert [picture.path for picture in gallery.pictures] == files
        expected = np.stack([of_bytes(path.read_bytes()) for path in files])
        np.testing.assert_array_equal(gallery.vectors, expected)
        assert gallery.num_new == expected_new
        return gallery

    return opened


def test_only_what_changed_is_embedded_again(folder, opened):
    opened(20)
    opened(0)
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "05.bmp").write_bytes(bmp(100))
    (folder / "00a.bmp").write_bytes(bmp(101))
    opened(2)
    before = (folder / "07.bmp").stat()
    (folder / "07.bmp").write_bytes(bmp(102))
    assert (folder / "07.bmp").stat().st_size == before.st_size
    opened(1)
    (folder / "03.bmp").unlink()
    (folder / "00a.bmp").rename(folder / "moved.bmp")
    opened(1)
    assert opened.said == []
    opened(0)


def test_what_is_gone_leaves_the_cache(folder, opened):
    gallery = opened(20)
    for i in range(15):
        (folder / f"{i:02}.bmp").unlink()
    opened(0)
    with sqlite3.connect(gallery.cache) as connection:
        assert connection.execute("SELECT count(*) FROM pictures").fetchone() == (5,)


def test_each_model_and_each_folder_has_its_own(folder, opened, tmp_path):
    first = opened(20)
    second = opened(20, EmbeddingModel({"kind": "bytes", "step": 2}, of_source))
    assert first.cache.parent == second.cache.parent and first.cache != second.cache
    opened(0)
    other = tmp_path / "other"
    other.mkdir()
    (other / "00.bmp").write_bytes(bmp(50))
    elsewhere = open_gallery(MODEL, PictureFiles(str(other)), str(tmp_path / "cache"))
    assert elsewhere.num_new == 1
    (tmp_path / "link").symlink_to(folder)  # the same folder by another name
    linked = open_gallery(MODEL, PictureFiles(f"{tmp_path}/link/"), str(tmp_path / "cache"))
    assert (linked.num_new, linked.cache) == (0, first.cache)


def test_the_same_weights_exported_at_another_size_are_another_model(folder, tmp_path):
    def opened(side: int, weights: list[np.ndarray] | None) -> tuple[tf.keras.Model, Gallery]:
        network = build_network("smallnet", side, 8)
        network.set_weights(weights or network.get_weights())
        export_saved_model(network, "smallnet", side, tmp_path / "export", bmp(0))
        model, files = export_model(str(tmp_path / "export")), PictureFiles(str(folder))
        return network, open_gallery(model, files, str(tmp_path / "cache"))

    small, first = opened(16, None)
    large, second = opened(48, small.get_weights())
    assert second.num_new == 20 and second.cache != first.cache
    for picture, vector in zip(second.pictures, second.vectors, strict=True):
        view = center_view(picture.path.read_bytes(), 48)[tf.newaxis]
        np.testing.assert_allclose(vector, large(view, training=False)[0], atol=1e-5)
    assert np.abs(first.vectors - second.vectors).max() > 1e-3


KILLED = """
import os, signal, sys
from la_tf.embedding.embedding_model import EmbeddingModel
from la_tf.search.picture_files import PictureFiles
from la_tf.search.gallery import open_gallery
from test_search_cache import MODEL

left = int(sys.argv[3])

def batches(source):
    global left
    for vectors in MODEL.batches(source):
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        yield vectors

model = EmbeddingModel(MODEL.identity, batches)
open_gallery(model, PictureFiles(sys.argv[1]), sys.argv[2])
"""


def test_killed_it_goes_on_where_it_saved(folder, opened, tmp_path, program_server):
    script = tmp_path / "script.py"
    script.write_text(f"import sys\nsys.path.append({str(ROOT / 'tests')!r})\n{KILLED}")
    for i in range(20, 700):
        (folder / f"{i:03}.bmp").write_bytes(bmp(i % 256) + i.to_bytes(2, "big"))
    remaining = 700
    for batches, saved in ((3, 256), (2, 256)):
        process = program_server.start(script, folder, tmp_path / "cache", batches, cwd=ROOT)
        _, stderr = process.communicate()
        assert process.returncode == -9, stderr
        remaining -= saved
    opened(remaining)
    opened(0)


def damage_head(content: bytes) -> bytes:
    return b"no such thing" + content[13:]


def damage_vector(content: bytes) -> bytes:
    place = content.index(of_bytes(bmp(5)).tobytes())
    return content[: place + 9] + bytes([content[place + 9] ^ 16]) + content[place + 10 :]


@pytest.mark.parametrize(
    "damage",
    [damage_head, damage_vector, lambda content: content[:5000]],
    ids=["head", "vector", "cut short"],
)
def test_a_damaged_cache_is_made_anew_with_a_sentence(opened, damage):
    cache = opened(20).cache
    cache.write_bytes(damage(cache.read_bytes()))
    opened(20)
    (sentence,) = opened.said
    assert f"{cache} is damaged" in sentence and "\n" not in sentence
    opened(0)
    assert opened.said == []


def test_no_byte_of_the_cache_can_mislead(folder, opened):
    cache = opened(20).cache
    whole, rng = cache.read_bytes(), np.random.default_rng(0)
    used = [i for i, byte in enumerate(whole) if byte]
    for place in [*range(100), *rng.choice(used, 100, replace=False)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        cache.write_bytes(damaged)
        try:
            gallery = open_gallery(MODEL, PictureFiles(str(folder)), str(cache.parent), str)
        except EmbeddingError as refused:
            assert "remove the file" in str(refused)
            continue
        for picture, vector in zip(gallery.pictures, gallery.vectors, strict=True):
            np.testing.assert_array_equal(vector, of_bytes(picture.path.read_bytes()))
        assert len(gallery.pictures) == 20


def test_a_cache_that_cannot_be_written_is_a_sentence(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddingError, match=r"cache .*file.* cannot be used \(.*--cache_dir"):
        open_gallery(MODEL, PictureFiles(str(folder)), str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == ""


def test_two_that_search_at_once_share_the_cache(folder, opened):
    cache = opened(20).cache
    (folder / "new.bmp").write_bytes(bmp(200))
    inner = []

    def batches(source):
        if not inner:
            inner.append(None)
            inner[0] = open_gallery(MODEL, PictureFiles(str(folder)), str(cache.parent)).num_new
        yield from of_source(source)

    opened(1, EmbeddingModel(MODEL.identity, batches))
    assert inner == [1]
    opened(0)


@pytest.fixture(scope="module")
def network(trained_run):
    """A model that decodes what it embeds."""
    return run_model(open_run(str(trained_run)))


def broken_files(folder) -> dict[str, bytes]:
    """What folders of photographs have among the photographs."""
    large = io.BytesIO()
    Image.effect_noise((200, 100), 50).save(large, "JPEG")
    return {
        "cut.jpg": large.getvalue()[:2000],  # its head is that of a picture
        "empty.png": b"",
        "large.png": png_of_size(20_000, 20_000),
        "text.gif": b"text",
    }


def test_files_that_are_no_picture_are_left_out_until_mended(network, folder, tmp_path):
    def gallery(said):
        return open_gallery(network, PictureFiles(str(folder)), str(tmp_path / "c"), said.append)

    for name, content in broken_files(folder).items():
        (folder / name).write_bytes(content)
    (folder / "to_nothing.jpg").symlink_to("gone.jpg")
    (folder / "to_zeros.jpg").symlink_to("/dev/zero")  # has no end
    os.mkfifo(folder / "pipe.jpg")  # and this no beginning
    said = []
    first = gallery(said)
    assert (len(first.pictures), first.num_new) == (20, 20)
    assert sorted(os.path.basename(image.name) for image in first.left_out) == [
        *("cut.jpg", "empty.png", "large.png", "pipe.jpg", "text.gif", "to_nothing.jpg"),
        "to_zeros.jpg",
    ]
    (sentence,) = said
    assert "7 of the 27 files" in sentence and sentence.endswith(" and 4 more.")
    reasons = {os.path.basename(image.name): image.reason for image in first.left_out}
    assert "No such file" in reasons["to_nothing.jpg"]
    assert reasons["large.png"].startswith("has 400.0 megapixels, more than the 150 allowed")
    assert reasons["pipe.jpg"] == reasons["to_zeros.jpg"] == "is no regular file"
    (folder / "cut.jpg").write_bytes(bmp(99))
    said.clear()
    second = gallery(said)
    assert (len(second.pictures), second.num_new) == (21, 1)
    assert len(said) == 1 and "6 of the 27 files" in said[0]


def test_of_a_strip_the_middle_is_embedded(network, folder, tmp_path):
    pixels = np.full((65_000, 1), 255, np.uint8)
    middle = slice(32_490, 32_510)
    pixels[middle] = 90
    Image.fromarray(pixels).save(folder / "strip.png")
    Image.fromarray(pixels[middle]).save(folder / "strip_middle.png")
    gallery = open_gallery(network, PictureFiles(str(folder)), str(tmp_path / "c"))
    rows = {p.path.name: row for p, row in zip(gallery.pictures, gallery.vectors, strict=True)}
    assert len(rows) == 22
    np.testing.assert_allclose(rows["strip.png"], rows["strip_middle.png"], atol=1e-5)


def test_a_folder_without_any_picture_is_refused(network, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    with pytest.raises(DataError, match="holds no images"):
        PictureFiles(str(folder))
    for name, content in broken_files(folder).items():
        (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=r"no picture to embed: .* the first of 4 files") as caught:
        open_gallery(network, PictureFiles(str(folder)), str(tmp_path / "c"))
    assert "\n" not in str(caught.value)


def test_names_need_not_be_text(folder, opened):
    name = os.fsencode(folder) + b"/caf\xe9.bmp"
    with open(name, "wb") as file:
        file.write(bmp(150))
    picture = next(p for p in opened(21).pictures if "caf" in p.label)
    assert picture.label == f"{folder}/caf\N{REPLACEMENT CHARACTER}.bmp"
    assert os.fsencode(picture.path) == name
    opened(0)


def test_caches_are_where_the_system_keeps_them(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "la_tf" / "search"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(default_cache_dir()) == "/home/somebody/.cache/la_tf/search"
