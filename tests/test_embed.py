"""Embeddings on disk: against the network image by image, after kills anywhere, and refusals."""

import fcntl
import hashlib
import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

from la_tf.config import DataConfig
from la_tf.data.augment import CENTER_VIEW_VERSION, center_view
from la_tf.data.base import DataError, Subset
from la_tf.data.folder import FolderSource
from la_tf.data.sources import open_source
from la_tf.embedding import embedding_files, embedding_model
from la_tf.embedding.embedding_files import write_embeddings
from la_tf.embedding.embedding_model import EmbeddingError, export_model, open_part, run_model
from la_tf.runs.trained_run import open_run

DIM = 128


@pytest.fixture(scope="module")
def run(trained_run):
    return open_run(str(trained_run))


@pytest.fixture(scope="module")
def output(run, tmp_path_factory):
    """Embeddings of all training images by the network of the run."""
    folder = tmp_path_factory.mktemp("output")
    return write_embeddings(run_model(run), open_source("digits"), str(folder))


def files_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_rows_are_the_network_s_embeddings_of_each_image_alone(run, output):
    source = open_source("digits")
    rows = np.load(output.array)
    assert (rows.shape, rows.dtype) == ((1437, DIM), np.float32)
    for i in (0, 1, 127, 128, 700, 1436):
        view = center_view(source.read(i), 16)[tf.newaxis]
        np.testing.assert_allclose(rows[i], run.network(view, training=False)[0], atol=1e-5)


@pytest.mark.parametrize("folder", ["export", "export/1"])
def test_an_export_gives_what_its_run_gives(trained_run, output, tmp_path, folder):
    model = export_model(str(trained_run / folder))
    written = write_embeddings(model, open_source("digits"), str(tmp_path))
    np.testing.assert_allclose(np.load(written.array), np.load(output.array), atol=1e-5)


def test_the_table_says_what_each_vector_is_of(run, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_files, "_ROWS_PER_GROUP", 100)
    source = open_source("digits", "val")
    written = write_embeddings(run_model(run), source, str(tmp_path))
    table = pq.read_table(written.table)
    assert {field.name: str(field.type) for field in table.schema} == {
        "path": "string",
        "index": "int64",
        "label": "int32",
        "class_name": "string",
        "vector": f"fixed_size_list<element: float>[{DIM}]",
    }
    assert pq.ParquetFile(written.table).num_row_groups == 4
    columns = table.drop(["vector"]).to_pydict()
    number = [int(path.removeprefix("digits[").removesuffix("]")) for path in columns["path"]]
    assert columns["index"] == list(range(360)) and number == sorted(set(number))
    target = load_digits().target[number]
    np.testing.assert_array_equal(columns["label"], target)
    assert columns["class_name"] == [str(digit) for digit in target]
    vectors = np.array(table["vector"].to_pylist(), np.float32)
    np.testing.assert_array_equal(vectors, np.load(written.array))
    model, data = (json.loads(table.schema.metadata[name]) for name in (b"model", b"data"))
    assert (model["network"], model["step"], model["image_size"]) == ("smallnet", 44, 16)
    assert (data["name"], data["examples"]) == ("digits", 360)


def png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 18), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def pictures(tmp_path):
    """A folder of 700 unlabelled pictures, number i of another colour."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(700):
        (folder / f"{i:03}.png").write_bytes(png((i % 256, i // 256, 77)))
    return folder


def test_without_labels_they_are_null(run, pictures, tmp_path):
    source = Subset(FolderSource(str(pictures)), range(5))
    written = write_embeddings(run_model(run), source, str(tmp_path / "out"))
    table = pq.read_table(written.table)
    assert table["label"].to_pylist() == table["class_name"].to_pylist() == [None] * 5
    assert table.schema.field("label").type == pa.int32()
    assert table["path"].to_pylist() == [str(pictures / f"00{i}.png") for i in range(5)]


def test_an_image_that_breaks_is_named_and_mended_work_goes_on(run, pictures, tmp_path):
    model, source, out = run_model(run), FolderSource(str(pictures)), tmp_path / "out"
    whole = write_embeddings(model, source, str(tmp_path / "whole"))
    (pictures / "650.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"650\.png cannot be decoded"):
        write_embeddings(model, source, str(out))
    assert json.loads((out / "embeddings.progress.json").read_text())["rows"] == 512
    (pictures / "650.png").write_bytes(png((650 % 256, 650 // 256, 77)))
    # What is done is not done again: an image among the first 512 may be gone, but for the first,
    # on which the model is tried.
    (pictures / "300.png").unlink()
    write_embeddings(model, source, str(out))
    assert files_of(out) == files_of(whole.array.parent)


# Embeds names instead of images, so that nothing but the files is at stake; kills itself at the
# n-th time that it touches the output folder or begins a batch, for every n there is.
KILLED_EVERYWHERE = """
import hashlib, os, pathlib, signal, sys
import numpy as np
from la_tf.data.base import Source
from la_tf.embedding.embedding_model import EmbeddingModel
from la_tf.embedding.embedding_files import write_embeddings

class Names(Source):
    def describe(self, i):
        return f"name/{i}"
    def load(self, index):
        raise NotImplementedError

source = Names("names", 700, np.arange(700) % 3, ("a", "b", "c"))
base = pathlib.Path(sys.argv[1])

def embed(folder, kill_at=None):
    seen = 0
    def touched(*arguments):
        nonlocal seen
        seen += 1
        if seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    def hook(event, arguments):
        if event in ("open", "os.rename", "os.remove") and str(folder) in str(arguments):
            touched()
    def batches(part):
        for start in range(0, len(part), 128):
            touched()
            names = [part.describe(i) for i in range(start, min(start + 128, len(part)))]
            hashes = [hashlib.sha256(name.encode()).digest()[:8] for name in names]
            yield np.array([list(digest) for digest in hashes], np.float32)
    process = os.fork()  # TensorFlow has not started any thread yet
    if process == 0:
        sys.addaudithook(hook)
        write_embeddings(EmbeddingModel({"weights": "sha256"}, batches), source, str(folder))
        os._exit(0)
    return os.waitpid(process, 0)[1]

def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}

assert embed(base / "whole") == 0
whole = files(base / "whole")
assert sorted(whole) == ["embeddings.npy", "embeddings.parquet"], sorted(whole)
finals, kill_at = set(whole), 0
while True:
    kill_at += 1
    folder = base / str(kill_at)
    status = embed(folder, kill_at)
    if status == 0:
        break
    assert status == signal.SIGKILL, status
    if folder.exists():
        left = files(folder)
        assert all(left[name] == whole[name] for name in finals & set(left)), kill_at
    assert embed(folder) == 0, kill_at
    assert files(folder) == whole, kill_at
print(kill_at - 1)
"""


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tmp_path, program_server):
    script = tmp_path / "script.py"
    script.write_text(KILLED_EVERYWHERE)
    process = program_server.start(script, tmp_path, cwd=tmp_path)
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    assert int(stdout) > 20  # places at which it was killed
    expected = [list(hashlib.sha256(f"name/{i}".encode()).digest()[:8]) for i in range(700)]
    assert np.load(tmp_path / "whole" / "embeddings.npy").tolist() == expected


@pytest.fixture
def unfinished(run, pictures, tmp_path):
    """Work that stopped after 512 of 700 pictures: the folder, and the images."""
    source, picture = FolderSource(str(pictures)), pictures / "600.png"
    encoded = picture.read_bytes()
    picture.write_bytes(b"")
    with pytest.raises(DataError):
        write_embeddings(run_model(run), source, str(tmp_path / "out"))
    picture.write_bytes(encoded)
    return tmp_path / "out", source


def refused(model, source, folder, words: str) -> None:
    before = files_of(folder)
    with pytest.raises(EmbeddingError, match=words) as caught:
        write_embeddings(model, source, str(folder))
    assert "\n" not in str(caught.value)
    assert files_of(folder) == before


def test_unfinished_work_of_another_model_or_data_stays_as_it_is(
    run, trained_run, unfinished, monkeypatch
):
    folder, source = unfinished
    with monkeypatch.context() as patch:
        patch.setattr(embedding_model, "CENTER_VIEW_VERSION", 99)
        refused(
            run_model(run),
            source,
            folder,
            f"another model .*center_view was {CENTER_VIEW_VERSION}, now 99",
        )
    exported = export_model(str(trained_run / "export"))
    refused(exported, source, folder, "another model .*now SavedModel")
    refused(run_model(run), Subset(source, range(699)), folder, "examples was 700, now 699")
    kernel = run.network.trainable_variables[0]
    value = kernel.numpy()
    try:
        kernel.assign(value + 1e-4)
        refused(run_model(run), source, folder, r"another model \(its weights was")
    finally:
        kernel.assign(value)
    written = write_embeddings(run_model(run), source, str(folder))
    assert (written.rows, written.was_there) == (700, False)


def test_unfinished_work_that_is_damaged_is_not_trusted(run, unfinished):
    folder, source = unfinished
    partial, progress = folder / "embeddings.npy.partial", folder / "embeddings.progress.json"
    with partial.open("r+b") as file:
        file.truncate(1000)
    refused(run_model(run), source, folder, "shorter than")
    partial.unlink()
    refused(run_model(run), source, folder, "shorter than")
    progress.write_text("{")
    refused(run_model(run), source, folder, "cannot be read")


def test_finished_work_is_done_once_and_never_overwritten(run, output):
    folder, source = output.array.parent, open_source("digits")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = write_embeddings(run_model(run), source, str(folder))
    assert again.was_there and (again.rows, again.dim) == (1437, DIM)
    refused(run_model(run), open_source("digits", "val"), folder, "examples was 1437, now 360")
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["embeddings.npy", "embeddings.parquet"])
def test_files_of_somebody_else_stay(run, output, tmp_path, name):
    (tmp_path / name).write_bytes(b"somebody's")
    refused(run_model(run), open_source("digits"), tmp_path, f"{name} without")
    shutil.copy(output.array, tmp_path / "embeddings.npy")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "embeddings.parquet")
    refused(run_model(run), open_source("digits"), tmp_path, "damaged or of another tool")


def test_a_disk_too_small_is_refused_before_the_work(run, tmp_path, monkeypatch):
    free = shutil._ntuple_diskusage(10**12, 10**12, 5 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    source = Subset(open_source("digits"), np.arange(6_000) % 1437)  # 7 MiB
    refused(run_model(run), source, tmp_path, "5 MiB free, 6000 embeddings of 128 numbers need 7")


def test_two_processes_do_not_write_to_one_folder(run, tmp_path):
    with (tmp_path / "embeddings.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(run_model(run), open_source("digits"), tmp_path, "another process")


def test_what_is_no_folder_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddingError, match="file cannot be written"):
        write_embeddings(run_model(run), open_source("digits"), str(tmp_path / "file"))


def test_only_a_saved_model_that_embeds_images_is_taken(trained_run, tmp_path):
    with pytest.raises(EmbeddingError, match="holds no SavedModel"):
        export_model(str(trained_run))
    module = tf.Module()
    module.double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec([], tf.float32)])
    tf.saved_model.save(module, str(tmp_path / "other"), signatures=module.double)
    with pytest.raises(EmbeddingError, match="image_bytes"):
        export_model(str(tmp_path / "other"))
    shutil.copytree(trained_run / "export" / "1", tmp_path / "damaged")
    (tmp_path / "damaged" / "saved_model.pb").write_bytes(b"\x99damaged")
    with pytest.raises(EmbeddingError, match="damaged cannot be loaded"):
        export_model(str(tmp_path / "damaged"))


def test_the_newest_version_of_an_export_is_taken(trained_run, tmp_path):
    for version in ("9", "10"):
        shutil.copytree(trained_run / "export" / "1", tmp_path / version)
    (tmp_path / "9" / "saved_model.pb").write_bytes(b"\x99damaged")
    export_model(str(tmp_path))


def test_a_part_is_what_training_or_evaluation_uses(pictures, tmp_path):
    data = DataConfig(data=str(pictures), holdout=200)
    train_set, val = (open_part(data, 3, part) for part in ("train", "val"))
    assert (len(train_set), len(val)) == (500, 200)
    names = {part.describe(i) for part in (train_set, val) for i in range(len(part))}
    assert len(names) == 700
    with pytest.raises(DataError, match="has no held-out images"):
        open_part(DataConfig(data=str(pictures)), 3, "val")
    (pictures / "001.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"001\.png"):
        open_part(DataConfig(data=str(pictures)), 3, "train")
    said = []
    skipping = DataConfig(data=str(pictures), skip_bad_images=True)
    assert len(open_part(skipping, 3, "train", said.append)) == 699
    assert len(said) == 1 and "001.png" in said[0]


def test_the_tool_writes_the_same_and_says_where(run_tool, trained_run, output, tmp_path):
    flags = (f"--run_dir={trained_run}", f"--output_dir={tmp_path}")
    code, out, err = run_tool("embed", *flags, fresh=True)
    assert (code, err) == (0, "")
    assert out.strip() == (
        f"1437 embeddings of {DIM} numbers written: {tmp_path}/embeddings.npy and "
        f"{tmp_path}/embeddings.parquet"
    )
    np.testing.assert_allclose(
        np.load(tmp_path / "embeddings.npy"), np.load(output.array), atol=1e-6
    )


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--output_dir=OUT"], "one of --run_dir and --export_dir"),
        (["--run_dir=A", "--export_dir=B", "--output_dir=OUT"], "one of --run_dir"),
        (["--export_dir=B", "--output_dir=OUT"], "--export_dir needs --data"),
        (["--run_dir=A"], "give --output_dir"),
        (["--run_dir=A", "--output_dir=OUT", "--part=test"], "part"),
        (["RUN"], "'RUN' is not a flag"),
    ],
)
def test_flags_that_make_no_sense_end_in_one_sentence(run_tool, tmp_path, flags, words):
    code, out, err = run_tool("embed", *flags)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: ") and words in err
