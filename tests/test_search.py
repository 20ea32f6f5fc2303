"""Search: against a full sort of the network's own embeddings, from a fresh process too."""

import io
import os
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from la_tf.data.augment import center_view
from la_tf.data.base import DataError
from la_tf.embedding.embedding_model import EmbeddingError, EmbeddingModel, export_model, run_model
from la_tf.runs.trained_run import open_run
from la_tf.search.gallery import EmbeddedFiles, embed_queries, open_gallery
from la_tf.search.nearest import duplicates, search
from la_tf.search.picture_files import PictureFiles


def picture(seed: int, kind: str = "PNG") -> bytes:
    """Patches of random colours, no two seeds alike."""
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.integers(0, 256, (4, 5, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def fill(folder, names) -> None:
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(seed))


NAMES = ["z.png", "a/b.PNG", "a/c d/é & <e>.png", "b-1.png", *(f"many/{i}.png" for i in range(30))]


@pytest.fixture(scope="module")
def run(trained_run):
    return open_run(str(trained_run))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """34 pictures without any order, with a text among them."""
    folder = tmp_path_factory.mktemp("search") / "gallery"
    fill(folder, NAMES)
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def gallery(run, folder, cache_dir):
    return open_gallery(run_model(run), PictureFiles(str(folder)), cache_dir)


def alone(run, path) -> np.ndarray:
    """The network's embedding [D] of one file."""
    side = run.config.data.image_size
    view = center_view(path.read_bytes(), side)[tf.newaxis]
    return run.network(view, training=False)[0].numpy()


def test_the_nearest_are_those_of_a_full_sort(run, folder, gallery, tmp_path):
    fill(tmp_path, [f"{i:03}.png" for i in range(40)])  # the last six are not in the gallery
    files = PictureFiles(str(tmp_path))
    found = search(embed_queries(run_model(run), files, gallery), gallery, 7)
    every = {folder / name: alone(run, folder / name) for name in NAMES}
    for i, result in enumerate(found):
        assert result.query.path == tmp_path / f"{i:03}.png"
        vector = alone(run, result.query.path)
        products = {path: vector @ other for path, other in every.items()}
        paths = [match.picture.path for match in result.matches]
        assert len(set(paths)) == 7
        # By their values: two pictures may be as near as rounding can tell.
        expected = sorted(products.values(), reverse=True)[:7]
        np.testing.assert_allclose([products[path] for path in paths], expected, atol=1e-5)
        np.testing.assert_allclose([m.similarity for m in result.matches], expected, atol=1e-5)


def test_an_export_finds_what_its_run_finds(run, trained_run, folder, gallery, cache_dir):
    model, files = export_model(str(trained_run / "export")), PictureFiles(str(folder))
    other = open_gallery(model, files, cache_dir)
    assert other.num_new == len(NAMES) and other.cache != gallery.cache
    np.testing.assert_allclose(other.vectors, gallery.vectors, atol=1e-5)


def test_a_file_does_not_find_itself_but_its_copies(run, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "with_copies")
    shutil.copy(folder / "z.png", tmp_path / "with_copies" / "copy.png")
    os.symlink("z.png", tmp_path / "with_copies" / "link.png")
    os.symlink("with_copies/z.png", tmp_path / "outside.png")
    model, files = run_model(run), PictureFiles(str(tmp_path / "with_copies"))
    with_copies = open_gallery(model, files, str(tmp_path / "cache"))
    queries = embed_queries(model, PictureFiles(str(tmp_path / "outside.png")), with_copies)
    (result,) = search(queries, with_copies, 1000)
    names = [match.picture.path.name for match in result.matches]
    assert len(names) == len(NAMES) and names[0] == "copy.png"
    assert not {"z.png", "link.png"} & set(names)
    assert result.matches[0].similarity == pytest.approx(1, abs=1e-5)
    # What is left out takes no place from the others.
    first = search(queries, with_copies, 3)[0].matches
    assert [match.picture.path.name for match in first] == names[:3]


def test_what_the_gallery_holds_is_not_embedded_again(run, folder, gallery):
    model = run_model(run)

    def never(source):
        raise AssertionError(f"{len(source)} pictures embedded again")

    idle = EmbeddingModel(model.identity, never)
    queries = embed_queries(idle, PictureFiles(str(folder / "a")), gallery)
    for query, vector in zip(queries.pictures, queries.vectors, strict=True):
        np.testing.assert_allclose(vector, alone(run, query.path), atol=1e-5)


def test_a_gallery_of_the_query_alone_gives_nothing(run, folder, tmp_path):
    shutil.copy(folder / "z.png", tmp_path)
    model, files = run_model(run), PictureFiles(str(tmp_path))
    single = open_gallery(model, files, str(tmp_path / "cache"))
    (result,) = search(embed_queries(model, files, single), single, 5)
    assert result.matches == ()


def test_a_query_that_is_no_picture_is_named(run, gallery, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("text")
    with pytest.raises(DataError, match=r"no picture to embed: .*text\.png \(is no JPEG"):
        embed_queries(run_model(run), PictureFiles(str(text)), gallery)
    with pytest.raises(DataError, match="nothing does not exist"):
        PictureFiles(str(tmp_path / "nothing"))
    with pytest.raises(DataError, match=r"text\.png is a file: name the folder"):
        open_gallery(run_model(run), PictureFiles(str(text)), str(tmp_path))


def test_vectors_that_make_no_cosines_are_refused(folder, tmp_path):
    long = EmbeddingModel({}, lambda source: iter([np.full((len(source), 4), 0.7, np.float32)]))
    with pytest.raises(EmbeddingError, match=r"length 1\.4 to 1\.4, not 1"):
        open_gallery(long, PictureFiles(str(folder)), str(tmp_path))


def read_results(stdout: str) -> dict[str, list[tuple[float, str]]]:
    """query -> (similarity, path) by rank, as the tool printed them."""
    results, query = {}, ""
    for line in stdout.splitlines():
        if row := re.fullmatch(r" +(\d+) +(-?\d\.\d{3})  (.+)", line):
            results[query].append((float(row[2]), row[3]))
            assert int(row[1]) == len(results[query])
        elif line.endswith(".png"):
            query = line
            results[query] = []
    return results


def test_the_tool_finds_the_same_and_embeds_once(
    run, run_tool, trained_run, folder, gallery, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    queries = tmp_path / "queries"
    fill(queries, [f"{i}.png" for i in range(36)])
    queries = EmbeddedFiles(  # 34 and 35 are not in the gallery
        tuple(embed_queries(run_model(run), PictureFiles(str(queries)), gallery).pictures),
        np.stack([alone(run, p) for p in sorted(queries.iterdir())]),
    )
    flags = (
        f"--run_dir={trained_run}",
        f"--gallery={folder}",
        f"--query={tmp_path / 'queries'}",
        "--num_results=3",
    )
    code, out, err = run_tool("search", *flags, cwd=tmp_path)
    assert (code, err) == (0, "")
    assert f"34 pictures, 34 of them embedded now; the embeddings are kept in {tmp_path}" in out
    assert (tmp_path / "search.html").exists() and "search.html written." in out
    printed = read_results(out)
    assert len(printed) == 36
    for result in search(queries, gallery, len(NAMES)):
        rows = printed[result.query.label]
        best = result.matches[0].similarity
        # Two pictures may be as near as rounding can tell.
        nearest = {m.picture.label for m in result.matches if m.similarity > best - 1e-5}
        assert rows[0][1] in nearest
        similarities = [match.similarity for match in result.matches[:3]]
        assert [s for s, _ in rows] == pytest.approx(similarities, abs=6e-4)
    code, again, _ = run_tool("search", *flags, "--output=deep/er/page.html", cwd=tmp_path)
    assert code == 0 and "34 pictures, 0 of them embedded now" in again
    assert read_results(again) == printed and (tmp_path / "deep/er/page.html").exists()


def test_duplicates_are_the_nearest_pairs_of_different_files(run, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "gallery")
    shutil.copy(folder / "z.png", tmp_path / "gallery" / "copy.png")
    os.symlink("z.png", tmp_path / "gallery" / "link.png")
    os.symlink("link.png", tmp_path / "gallery" / "a.png")
    files = PictureFiles(str(tmp_path / "gallery"))
    gallery = open_gallery(run_model(run), files, str(tmp_path / "cache"))
    names = [*NAMES, "copy.png"]
    vectors = {name: alone(run, tmp_path / "gallery" / name) for name in names}
    expected = sorted((vectors[a] @ vectors[b] for i, a in enumerate(names) for b in names[:i]))
    found = duplicates(gallery, 1000)
    assert [r.matches[0].similarity for r in found] == pytest.approx(expected[::-1], abs=1e-5)
    assert found[0].matches[0].similarity == pytest.approx(1, abs=1e-5)
    for result in found:
        (match,) = result.matches
        a, b = result.query.path.resolve(), match.picture.path.resolve()
        assert a != b
        product = vectors[str(a.relative_to(tmp_path / "gallery"))]
        product = product @ vectors[str(b.relative_to(tmp_path / "gallery"))]
        assert match.similarity == pytest.approx(product, abs=1e-5)
    assert len(duplicates(gallery, 3)) == 3
    count, middle = widest_gap(expected)
    assert len(duplicates(gallery, 1000, middle)) == count


def widest_gap(similarities: list[float]) -> tuple[int, float]:
    """How many lie above the widest gap, and its middle: rounding moves none across it."""
    falling = np.sort(similarities)[::-1]
    last = int((falling[:-1] - falling[1:]).argmax())
    return last + 1, float(falling[last : last + 2].mean())


def test_the_tool_prints_the_pairs_of_a_folder(
    run_tool, trained_run, folder, gallery, cache_dir, tmp_path
):
    flags = (f"--run_dir={trained_run}", f"--gallery={folder}", f"--cache_dir={cache_dir}")
    expected = duplicates(gallery, 1000)
    code, out, err = run_tool("search", *flags, "--duplicates", "--num_results=4", cwd=tmp_path)
    assert (code, err) == (0, "") and (tmp_path / "search.html").exists()
    printed = re.findall(r"^ +(\d+) +(-?\d\.\d{3})  (.+)\n {15}(.+)$", out, re.MULTILINE)
    assert [int(rank) for rank, *_ in printed] == [1, 2, 3, 4]
    similarity = {(r.query.label, r.matches[0].picture.label): r.matches[0] for r in expected}
    for (_, shown, *pair), best in zip(printed, expected, strict=False):
        # Two pairs may be as near as rounding can tell.
        assert float(shown) == pytest.approx(similarity[tuple(pair)].similarity, abs=6e-4)
        assert float(shown) == pytest.approx(best.matches[0].similarity, abs=6e-4)
    assert "34 pictures, 0 of them embedded now" in out
    count, middle = widest_gap([result.matches[0].similarity for result in expected])
    code, out, _ = run_tool(
        "search", *flags, "--duplicates", f"--min_similarity={middle}", cwd=tmp_path
    )
    assert code == 0 and len(re.findall(r"^ {15}", out, re.MULTILINE)) == count


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_names_are_printed_whatever_they_are(
    run_tool, trained_run, tmp_path, monkeypatch, encoding
):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    fill(tmp_path / "odd\n", ["snow \N{CJK UNIFIED IDEOGRAPH-96EA}.png", "two\nlines\x1b[31m.png"])
    (tmp_path / "odd\n" / "bad\r.png").write_text("no picture")
    flags = (f"--run_dir={trained_run}", "--gallery=odd\n", "--query=odd\n", "--cache_dir=cache")
    code, out, err = run_tool("search", *flags, cwd=tmp_path, fresh=True)
    assert (code, err) == (0, "")
    snow = "snow \N{CJK UNIFIED IDEOGRAPH-96EA}.png" if encoding == "utf-8" else r"snow \u96ea.png"
    lines = out.splitlines()
    assert [line for line in lines if line.endswith(".png") and line[0] != " "] == [
        rf"odd\n/{snow}",
        r"odd\n/two\nlines\x1b[31m.png",
    ]
    found = [line.split("  ")[-1] for line in lines if line.startswith("    1  ")]
    assert found == [r"odd\n/two\nlines\x1b[31m.png", rf"odd\n/{snow}"]
    assert r"1 of the 3 files of odd\n left out: odd\n/bad\r.png (is no" in out


def test_a_reader_that_leaves_is_no_error(trained_run, folder, tmp_path, start_tool):
    flags = [f"--run_dir={trained_run}", f"--gallery={folder}", f"--query={folder}"]
    flags += [f"--cache_dir={tmp_path}", f"--output={tmp_path / 'p.html'}"]
    process = start_tool("search", *flags)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 141
    assert (tmp_path / "p.html").exists()


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--gallery=A", "--query=B"], "one of --run_dir and --export_dir"),
        (["--run_dir=A", "--export_dir=B", "--gallery=A", "--query=B"], "one of --run_dir"),
        (["--run_dir=A", "--gallery=B"], "--query, what to search for"),
        (["--run_dir=A", "--gallery=B", "--query=C", "--duplicates"], "or --duplicates"),
        (["--run_dir=A", "--gallery=B", "--query=C", "--min_similarity=1"], "needs --duplicates"),
        (["--run_dir=A", "--gallery=A", "--query=B", "--num_results=0"], "num_results"),
        (["--run_dir=A", "--gallery=GONE", "--query=GONE"], "GONE does not exist: name a"),
    ],
)
def test_flags_that_make_no_sense_end_in_one_sentence(run_tool, tmp_path, flags, words):
    code, out, err = run_tool("search", *flags, cwd=tmp_path)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: ") and words in err and not list(tmp_path.iterdir())
