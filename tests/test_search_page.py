"""The page of a search, read as a browser reads it."""

import base64
import io
import os
import pathlib
import urllib.parse
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from la_tf.search.gallery import PictureFile
from la_tf.search.nearest import Match, SearchResult
from la_tf.search.page import PageError, require_output, write_page

ODD = 'a "b" & <script>alert(1)</script> #?% é.png'.replace("/", "\N{FRACTION SLASH}")


class Reader(HTMLParser):
    """Sections of the page, each with its (target of link, alt, source, text below) in order."""

    def __init__(self, page: str):
        super().__init__()
        self.sections, self.tags, self.addresses = [], set(), []
        self.headings, self.notes, self._inside = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.add(tag)
        self.addresses += [attributes[name] for name in ("href", "src") if name in attributes]
        if tag == "section":
            self.sections.append([])
        if tag == "a":
            self.sections[-1].append({"link": attributes["href"], "text": ""})
        if tag == "img":
            self.sections[-1][-1] |= {"alt": attributes["alt"], "src": attributes["src"]}
        if tag not in ("meta", "img"):
            self._inside.append((tag, attributes.get("class")))

    def handle_endtag(self, tag):
        assert self._inside.pop()[0] == tag

    def handle_data(self, data):
        tags = [tag for tag, _ in self._inside]
        if "h2" in tags:
            self.headings.append(data)
        if "p" in tags and "missing" in [kind for _, kind in self._inside]:
            self.notes.append(data.strip())
        elif "section" in tags and data.strip():
            self.sections[-1][-1]["text"] += data.strip() + " "


def decoded(address: str) -> Image.Image:
    head, content = address.split(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")


@pytest.fixture
def folder(tmp_path):
    """Pictures of one colour: a small one, a large one, one that lies on its side, and a text."""
    folder = tmp_path / "gallery"
    (folder / "deep").mkdir(parents=True)
    Image.new("RGB", (20, 30), (200, 10, 10)).save(folder / ODD)
    Image.new("RGB", (3000, 1500), (10, 200, 10)).save(folder / "deep" / "large.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (400, 200), (10, 10, 200)).save(folder / "turned.jpg", exif=turned)
    (folder / "text.png").write_text("text")
    return folder


@pytest.fixture
def results(folder):
    def found(name: str) -> PictureFile:
        path = folder / name
        return PictureFile(path, str(path), (0, path.stat().st_ino))

    def matches(*names: str) -> tuple[Match, ...]:
        return tuple(Match(found(n), 0.98765 - 0.25 * i) for i, n in enumerate(names))

    return [
        SearchResult(found("turned.jpg"), matches(ODD, "deep/large.jpg", "text.png")),
        SearchResult(found(ODD), matches("deep/large.jpg", "turned.jpg", ODD)),
        SearchResult(found("deep/large.jpg"), ()),
    ]


def write(path, results, folder) -> Reader:
    write_page(str(path), results, str(folder), 4, "runs/<model>")
    return Reader(path.read_text(encoding="utf-8"))


def test_each_query_is_followed_by_what_was_found(results, folder, tmp_path):
    page = write(tmp_path / "page.html", results, folder)
    for section, result in zip(page.sections, results, strict=True):
        pictures = [result.query, *(match.picture for match in result.matches)]
        targets = [urllib.parse.unquote(tile["link"].removeprefix("file://")) for tile in section]
        assert targets == [str(picture.path) for picture in pictures]
        names = [os.path.relpath(picture.path, folder) for picture in pictures[1:]]
        for tile, name, match in zip(section[1:], names, result.matches, strict=True):
            assert f"{match.similarity:.3f} {name} " in tile["text"]
            assert tile["alt"] == name if "src" in tile else "cannot be shown" in tile["text"]
        assert section[0]["alt"] == f"Query: {result.query.label}"
    assert page.headings == [result.query.label for result in results]
    assert page.notes == ["The gallery holds no other picture."]
    assert "src" not in page.sections[0][3]


def test_thumbnails_are_the_pictures_upright_and_not_large(results, folder, tmp_path):
    turned, small, large, _ = write(tmp_path / "page.html", results, folder).sections[0]
    for tile, size, colour in (
        (turned, (88, 176), (10, 10, 200)),
        (small, (20, 30), (200, 10, 10)),
        (large, (176, 88), (10, 200, 10)),
    ):
        image = decoded(tile["src"])
        assert image.size == size
        np.testing.assert_allclose(image.getpixel((5, 5)), colour, atol=4)


def test_the_page_needs_neither_script_nor_network(results, folder, tmp_path):
    page = write(tmp_path / "page.html", results, folder)
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "form"}
    assert all(address.startswith(("data:image/", "file:///")) for address in page.addresses)
    text = (tmp_path / "page.html").read_text()
    assert "url(" not in text and "@import" not in text and "<model>" not in text
    assert '<html lang="en">' in text and "prefers-color-scheme: dark" in text


def test_a_long_search_is_shown_in_part_and_says_so(results, folder, tmp_path):
    many = [SearchResult(r.query, r.matches * 30) for r in results] * 40
    limits = write_page(str(tmp_path / "page.html"), many, str(folder), 4, "model")
    words = "the first 100 of 120 queries and the first 50 of 90 pictures found for each"
    assert limits == f"The page shows {words}."
    read = Reader((tmp_path / "page.html").read_text())
    assert limits in read.notes
    assert [len(section) for section in read.sections[:3]] == [51, 51, 1]
    assert len(read.sections) == 100


def test_pairs_stand_beside_each_other(results, folder, tmp_path):
    def write_pairs(pairs):
        limits = write_page(str(tmp_path / "page.html"), pairs, str(folder), 4, "m", pairs=True)
        return limits, Reader((tmp_path / "page.html").read_text(encoding="utf-8"))

    pairs = [SearchResult(r.query, r.matches[:1]) for r in results[:2]]
    limits, page = write_pairs(pairs)
    assert limits == "" and page.headings == ["turned.jpg", ODD]  # below the folder
    for section, pair in zip(page.sections, pairs, strict=True):
        names = [pair.query.path.name, str(pair.matches[0].picture.path.relative_to(folder))]
        assert [tile["alt"] for tile in section] == names
        assert f"0.988 {names[1]} " in section[1]["text"]
    limits, page = write_pairs(pairs * 60)
    assert limits == "The page shows the first 100 of 120 pairs." and len(page.sections) == 100
    limits, page = write_pairs([])
    assert limits == "" and page.notes == ["No two pictures are as similar as that."]


def test_a_page_is_replaced_and_nothing_else(results, folder, tmp_path):
    page = tmp_path / "page.html"
    write(page, results, folder)
    assert len(write(page, results[:1], folder).sections) == 1
    photo = folder / "turned.jpg"
    before = photo.read_bytes()
    for refuse in (require_output, lambda path: write_page(path, results, "g", 4, "m")):
        with pytest.raises(PageError, match=r"turned\.jpg is a file of something else"):
            refuse(str(photo))
        with pytest.raises(PageError, match="is a folder: name a file"):
            refuse(str(folder))
        with pytest.raises(PageError, match=r"turned\.jpg.page\.html cannot be written"):
            refuse(str(photo / "page.html"))
    assert photo.read_bytes() == before
    (tmp_path / "page.html.partial").write_text("somebody's")
    write(page, results, folder)
    assert (tmp_path / "page.html.partial").read_text() == "somebody's"
    (tmp_path / "page.html.partial").unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gallery", "page.html"]


def test_names_that_are_no_text_are_linked_to(results, folder, tmp_path):
    path = pathlib.Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg"))
    Image.new("RGB", (8, 8)).save(path)
    picture = PictureFile(path, f"{folder}/caf\N{REPLACEMENT CHARACTER}.jpg", (0, 0))
    page = write(tmp_path / "page.html", [SearchResult(picture, ())], folder)
    assert page.sections[0][0]["link"].endswith("/caf%E9.jpg")
    assert decoded(page.sections[0][0]["src"]).size == (8, 8)
