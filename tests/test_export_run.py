"""What a run hands over: written at the end of training and by tools/export.py alike."""

import fcntl
import gc
import hashlib
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from la_tf.embedding.embedding_model import export_model, open_part, run_model
from la_tf.export.run import LOCK, export_run, sample_pictures
from la_tf.export.saved_model import ExportError
from la_tf.export.weights import checksum, network_from_weights
from la_tf.runs.trained_run import open_run

N = 1437  # digits in the training set


@pytest.fixture(scope="module")
def run(trained_run):
    return open_run(str(trained_run))


@pytest.fixture(scope="module")
def exported(trained_run, run_tool, tmp_path_factory):
    """Folder that tools/export.py wrote."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    flags = (f"--run_dir={trained_run}", f"--export_dir={folder}")
    code, stdout, stderr = run_tool("export", *flags, fresh=True)
    assert (code, stderr) == (0, "")
    assert "tried on 8 images of the run" in stdout
    return folder


def files_of(folder) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def page_of(folder) -> str:
    return (folder / "README.md").read_text()


def weights_named_in(page: str) -> str:
    return re.search(r"^`([0-9a-f]{64})`\.", page, re.MULTILINE).group(1)


def test_training_ends_with_the_export_that_the_tool_writes(trained_run, run, exported):
    trained = trained_run / "export"
    assert {path.name for path in trained.iterdir()} == {"1", "README.md", "weights.npz", LOCK}
    assert set(files_of(trained)) == set(files_of(exported))
    assert (trained / "weights.npz").read_bytes() == (exported / "weights.npz").read_bytes()
    assert weights_named_in(page_of(trained)) == checksum(run.network)
    assert weights_named_in(page_of(exported)) == checksum(run.network)


def test_the_export_embeds_as_the_run_does(run, exported):
    heldout = open_part(run.config.data, run.config.schedule.seed, "val")
    expected = np.concatenate(list(run_model(run).batches(heldout)))
    found = np.concatenate(list(export_model(str(exported)).batches(heldout)))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_nothing_of_the_size_of_the_training_set_is_in_it(run, exported):
    loaded = tf.saved_model.load(str(exported / "1"))
    held = [v for s in loaded.signatures.values() for v in s.variables]
    in_file = tf.train.load_checkpoint(str(exported / "1" / "variables" / "variables"))
    in_file = list(in_file.get_variable_to_shape_map().values())
    with np.load(exported / "weights.npz") as file:
        in_npz = [file[name].shape for name in file.files]
    assert len(run.bank) == N
    assert all(N not in shape for shape in [*(v.shape for v in held), *in_file, *in_npz])
    # Each weight once, whatever the number of signatures; the object graph is the one scalar.
    expected = sorted(tuple(weight.shape) for weight in run.network.weights)
    assert sorted(tuple(shape) for shape in in_file if shape) == expected
    size = 4 * run.network.count_params()
    data = exported / "1" / "variables" / "variables.data-00000-of-00001"
    assert data.stat().st_size == pytest.approx(size, rel=0.01)
    assert (exported / "weights.npz").stat().st_size == pytest.approx(size, rel=0.01)
    saved_model = [p for p in (exported / "1").rglob("*") if p.is_file()]
    assert size < sum(p.stat().st_size for p in saved_model) < size + (1 << 19)
    # The bank alone, which a checkpoint has, would be more than the graph and its names.
    assert run.bank.nbytes > 1 << 19


def test_weights_npz_is_the_run_s_network(run, exported):
    network = network_from_weights(exported / "weights.npz")
    for trained, read in zip(run.network.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(trained, read)


def test_the_page_says_what_the_model_is(trained_run, run, exported):
    page = page_of(exported)
    milestones = [
        record
        for line in (trained_run / "metrics.jsonl").read_text().splitlines()
        if (record := json.loads(line))["kind"] == "knn"
    ]
    assert f"{100 * milestones[-1]['knn200']:.1f}" in page
    assert "| Training images | 1,437 | digits, at 16 pixels; 360 held out |" in page
    assert "| Epochs | 4 of 4 | 44 steps of 128 images |" in page
    assert "| **k** | 64 |" in page and "| tau | 0.07 |" in page
    commit = json.loads((trained_run / "environment.json").read_text())[0]["git_commit"]
    assert f"git commit {commit or 'none'}" in page and f"tensorflow {tf.__version__}" in page
    assert "| `images` | `images` float32 [B, 16, 16, 3] | `embedding` float32 [B, 128] |" in page


def test_the_page_names_no_place_of_this_machine(trained_run, exported):
    for folder in (trained_run / "export", exported):
        page = page_of(folder)
        for place in (trained_run, exported.parent, sys.prefix):
            assert str(place) not in page
        assert not re.search(r"(?<![\w`.])/(?:home|root|tmp|work|usr)/", page)


def test_the_checksums_are_of_the_files(exported):
    lines = re.findall(r"^([0-9a-f]{64})  (\S+)$", page_of(exported), re.MULTILINE)
    files = files_of(exported)
    del files["README.md"], files[".export.lock"]
    assert {name: hashlib.sha256(content).hexdigest() for name, content in files.items()} == {
        name: digest for digest, name in lines
    }


def test_the_lines_on_the_page_work(run, exported, tmp_path):
    shutil.copytree(exported / "1", tmp_path / "1")
    Image.new("L", (40, 31), 90).save(tmp_path / "picture.jpg")
    (code,) = re.findall(r"```python\n(.*?)```", page_of(exported), re.DOTALL)
    code += "assert vectors.shape == (1, 128), vectors.shape\n"
    code += "assert abs(similarities.numpy() - 1).max() < 1e-5, similarities\n"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr


def test_a_run_whose_images_are_gone_is_exported_and_says_not_evaluated(trained_run, tmp_path):
    shutil.copytree(trained_run, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["config"]["data"]["data"] = "/elsewhere/my | pictures"
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    for name in ("metrics.jsonl", "environment.json"):
        (tmp_path / "run" / name).unlink()
    run = open_run(str(tmp_path / "run"))
    pictures, what = sample_pictures(run)
    assert len(pictures) == 1 and what.startswith("a generated image")
    saved = export_run(run, tmp_path / "model", pictures)
    assert saved == tmp_path / "model" / "1"
    page = page_of(tmp_path / "model")
    assert "\nNot evaluated.\n" in page
    assert "my \\| pictures, at 16 pixels" in page and "elsewhere" not in page


@pytest.fixture
def earlier(exported, tmp_path):
    """A copy of an export, to be replaced."""
    return shutil.copytree(exported, tmp_path / "earlier")


def test_an_earlier_export_gives_way_and_nothing_else(run, exported, earlier):
    (earlier / "network.onnx").write_bytes(b"of other weights")
    (earlier / ".partial").mkdir()
    (earlier / ".partial" / "notes").write_text("precious")
    (earlier / "weights.npz").write_bytes(b"old")
    export_run(run, earlier, sample_pictures(run, 1)[0])
    assert set(files_of(earlier)) == {*files_of(exported), ".partial/notes"}  # of the user
    assert (earlier / "1").stat().st_mode == (exported / "1" / "variables").stat().st_mode
    network_from_weights(earlier / "weights.npz")


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("full_at", ["1/variables/variables.data-00000-of-00001", "weights.npz"])
def test_an_earlier_export_survives_a_failure(run, earlier, full_at):
    size = (earlier / full_at).stat().st_size - 1000
    before = files_of(earlier)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))  # as a full disk
    try:
        with pytest.raises(ExportError, match="cannot be written") as caught:
            export_run(run, earlier, sample_pictures(run, 1)[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in str(caught.value)
    assert not re.search(r"\{\{|\[Op:|\[Errno", str(caught.value))
    assert files_of(earlier) == before
    assert not list(earlier.glob(".export-*"))
    gc.collect()  # a file that could not be closed would complain here


def test_what_a_killed_export_left_is_removed_by_the_next(run, earlier, exported, start_tool):
    """And not what a living one writes, nor what only has such a name."""
    (earlier / ".export-mybackup").mkdir()
    (earlier / ".export-mybackup" / "notes").write_text("precious")
    with (earlier / LOCK).open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # so that neither can be done
        first, second = (
            start_tool("export", f"--run_dir={run.path}", f"--export_dir={earlier}")
            for _ in range(2)
        )
        while len(list(earlier.glob(".export-*/*/README.md"))) < 2:
            assert first.poll() is None and second.poll() is None
            time.sleep(0.01)
        first.kill()
        first.communicate()
    assert second.communicate()[1] == "" and second.returncode == 0
    assert len(list(earlier.glob(".export-*/*/README.md"))) == 1
    export_run(run, earlier, sample_pictures(run, 1)[0])
    assert set(files_of(earlier)) == {*files_of(exported), ".export-mybackup/notes"}


def test_an_export_waits_while_another_one_moves_its_files(run, earlier):
    before = files_of(earlier)
    with (earlier / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(
            target=export_run, args=(run, earlier, sample_pictures(run, 1)[0])
        )
        thread.start()
        while not list(earlier.glob(".export-*/*/README.md")):
            assert thread.is_alive()
            time.sleep(0.01)
        thread.join(0.5)
        assert thread.is_alive()
        assert {name: files_of(earlier)[name] for name in before} == before
    thread.join()
    assert not list(earlier.glob(".export-*"))


def test_ctrl_c_leaves_nothing_and_does_not_promise_to_go_on(trained_run, start_tool, tmp_path):
    arguments = [f"--run_dir={trained_run}", f"--export_dir={tmp_path / 'model'}"]
    (tmp_path / "model").mkdir()
    with (tmp_path / "model" / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # so that it cannot be done before the signal comes
        process = start_tool("export", *arguments)
        while not list(tmp_path.glob("model/.export-*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    assert (process.returncode, stderr) == (130, "stopped; the same command starts anew.\n")
    assert [path.name for path in (tmp_path / "model").iterdir()] == [LOCK]


@pytest.mark.parametrize("name", ["README.md", "weights.npz", "network.onnx"])
def test_what_no_export_wrote_is_not_replaced(run, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ExportError, match=f"{name} that no export wrote"):
        export_run(run, tmp_path, sample_pictures(run, 1)[0])
    assert files_of(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize("name", ["1", "1/notes"])
def test_what_is_no_savedmodel_is_not_replaced(run, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ExportError, match="/1 is no SavedModel, and it would be replaced: name an"):
        export_run(run, tmp_path, sample_pictures(run, 1)[0])
    assert files_of(tmp_path) == {name: b"mine"}


def test_a_file_is_no_export_folder(run, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match="file is a file: name a folder as --export_dir"):
        export_run(run, tmp_path / "file", sample_pictures(run, 1)[0])
    with pytest.raises(ExportError, match=r": Not a directory\. The run itself is saved: fix that"):
        export_run(run, tmp_path / "file" / "folder", sample_pictures(run, 1)[0])
    assert files_of(tmp_path) == {"file": b"mine"}


def test_the_export_of_another_model_is_not_replaced(run, tmp_path):
    module = tf.Module()
    module.double = tf.function(lambda x: {"scores": 2 * x}, [tf.TensorSpec([], name="x")])
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=module.double)
    before = files_of(tmp_path)
    with pytest.raises(ExportError, match="export of another model"):
        export_run(run, tmp_path, sample_pictures(run, 1)[0])
    assert files_of(tmp_path) == before


def test_onnx_gives_tensorflow_s_embeddings(run, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("tf2onnx", reason="tf2onnx is not installed")
    pictures, _ = sample_pictures(run)
    saved = export_run(run, tmp_path, pictures, onnx=True)
    assert "embeddings of TensorFlow to" in capsys.readouterr().out
    assert "`network.onnx`" in page_of(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "network.onnx"))
    (found,) = session.run(["embedding"], {"images": images})
    loaded = tf.saved_model.load(str(saved))
    expected = loaded.signatures["images"](images=tf.constant(images))["embedding"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_onnx_without_tf2onnx_is_refused_before_anything_is_written(run, tmp_path, monkeypatch):
    for name in ("tf2onnx", "onnx"):
        monkeypatch.setitem(sys.modules, name, None)  # as Python marks what cannot be imported
    with pytest.raises(ExportError, match=r"ONNX needs .*pip install .*tf2onnx==[\d.]+"):
        export_run(run, tmp_path / "model", sample_pictures(run, 1)[0], onnx=True)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--export_dir=x"], "give --run_dir, the run, and --export_dir"),
        (["--run_dir=nowhere", "--export_dir=x"], "nowhere holds no run"),
        (["--run_dir=a", "--export_dir=b", "--opset=3"], "there is no flag --opset"),
    ],
)
def test_the_tool_says_what_is_wrong_in_one_sentence(run_tool, tmp_path, flags, said):
    code, stdout, stderr = run_tool("export", *flags, cwd=tmp_path)
    assert (code, stdout) == (1, "")
    assert stderr.startswith("error: ") and said in stderr and stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
