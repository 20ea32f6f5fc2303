"""Quiet TensorFlow before it is imported, and helpers that several test files share."""

import contextlib
import fcntl
import gc
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys

from la_tf import quiet

quiet.quiet()
# Several tests ask for more devices than a machine may have GPUs, and for equal bits on all.
# CUDA_VISIBLE_DEVICES=0 lets the tests that are named beside it see the first GPU.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# Workers of pytest-xdist share the cores: more threads than those would mostly wait, and busily.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        share = max(1, len(os.sched_getaffinity(0)) // WORKERS)
        os.environ.setdefault(variable, str(share))

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from program_server import ProgramServer  # noqa: E402

from la_tf.runs import runtime  # noqa: E402
from la_tf.runs.log import RunLog  # noqa: E402

# Before TensorFlow touches its devices: replicas to distribute over. One-device tests use CPU:0.
runtime.grow_gpu_memory()
runtime.set_logical_cpus(4)


def pytest_collection_finish():
    """What was imported is no garbage, and too much to look through again and again."""
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def no_garbage():
    """Networks lie in circles of references, a gigabyte after some files."""
    yield
    gc.collect()


@pytest.fixture
def hangup_is_heard():
    """Programs that a test starts hear SIGHUP, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session")
def sample_data() -> pathlib.Path:
    """Folder of sample data; tests that need it are skipped where it does not exist."""
    folder = pathlib.Path(os.environ.get("LA_TF_SAMPLE_DATA", "../shared/data"))
    if not folder.is_dir():
        pytest.skip(f"no sample data at {folder}: set LA_TF_SAMPLE_DATA")
    return folder.resolve()


@pytest.fixture
def unit_rows():
    """A function (count, dim, seed) -> [count, dim] float32 random unit rows."""

    def make(count: int, dim: int, seed: int = 0) -> np.ndarray:
        rows = np.random.default_rng(seed).normal(size=(count, dim))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    return make


@pytest.fixture
def log(tmp_path):
    """An empty log of what a run does."""
    return RunLog(tmp_path / "log.jsonl")


@pytest.fixture
def timing(tmp_path):
    """An empty log of how long it takes."""
    return RunLog(tmp_path / "timing.jsonl")


ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def program_server():
    """Starts Python programs that find TensorFlow imported."""
    with ProgramServer() as server:
        yield server


@pytest.fixture(scope="session")
def start_tool(request):
    """Starts tools/NAME.py with flags, in the checkout, with its output captured.

    `fresh` is for what a process that finds TensorFlow imported cannot show, and for what ends
    before the tool would import it. `stop`, of a tool that trains: (step, signal) that it gets when
    that step is done and not saved.
    """

    def start(
        name: str,
        *flags: str,
        cwd: pathlib.Path = ROOT,
        fresh: bool = False,
        stop: tuple[int, signal.Signals] | None = None,
    ):
        command = [ROOT / "tools" / f"{name}.py", *flags]
        if stop:
            command = [ROOT / "tests" / "stopped.py", str(stop[0]), str(int(stop[1])), *command]
        if not fresh:
            return request.getfixturevalue("program_server").start(*command, cwd=cwd)
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C is ignored in a background job of a shell, and by what that starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start


@pytest.fixture(scope="session")
def run_tool(start_tool):
    """Runs tools/NAME.py as `start_tool` does to its end: (exit code, stdout, stderr)."""

    def run(name: str, *flags: str, **options) -> tuple[int, str, str]:
        process = start_tool(name, *flags, **options)
        stdout, stderr = process.communicate(timeout=600)
        return process.returncode, stdout, stderr

    return run


@pytest.fixture(scope="session")
def free_ports():
    """A function count -> ports of this machine that nobody listens on."""

    def find(count: int) -> list[int]:
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
            for s in sockets:
                s.bind(("localhost", 0))
            return [s.getsockname()[1] for s in sockets]

    return find


# A run of seconds: 352 digits at 16 pixels, two epochs of IR and two of LA, 11 steps each. It keeps
# all of its checkpoints, at which `cut_back` ends it, and looks at its end off the beat.
TINY_RUN = (
    "--data=digits",
    "--limit=352",
    "--batch_size=32",
    "--image_size=16",
    "--network=smallnet",
    "--noflip",
    "--epochs=4",
    "--ir_epochs=2",
    "--k=64",
    "--num_clusters=40",
    "--log_every_steps=4",
    "--eval_every_epochs=3",
    "--checkpoint_every_steps=6",
    "--keep_checkpoints=9",
    "--nowrite_report",
)


@pytest.fixture(scope="session")
def tiny_run() -> tuple[str, ...]:
    """Flags of a run that takes seconds."""
    return TINY_RUN


@pytest.fixture(scope="session")
def newest_checkpoint():
    """A function run directory -> {variable: value} of its newest checkpoint."""
    import tensorflow as tf

    def load(run_dir: pathlib.Path) -> dict[str, np.ndarray]:
        reader = tf.train.load_checkpoint(str(run_dir / "checkpoints"))
        return {
            name: reader.get_tensor(name)
            for name in reader.get_variable_to_shape_map()
            # How often a checkpoint was written differs when runs are stopped and resumed.
            if not name.startswith(("save_counter", "_CHECKPOINTABLE_OBJECT_GRAPH"))
        }

    return load


@pytest.fixture(scope="session")
def cut_back():
    """A function (run directory, step, copy): the copy is as if killed after that checkpoint.

    Its log is longer than the checkpoint says, by all that followed.
    """

    def cut(run_dir: pathlib.Path, step: int, copy: pathlib.Path) -> pathlib.Path:
        files = [file.name for file in run_dir.glob("checkpoints/ckpt-*")]
        steps = [int(re.match(r"ckpt-(\d+)", name)[1]) for name in files]
        assert step in steps and step < max(steps)
        later = {name for name, of in zip(files, steps, strict=True) if of > step}
        shutil.copytree(
            run_dir, copy, ignore=lambda _, names: {"export", *later}.intersection(names)
        )
        return copy

    return cut


@pytest.fixture(scope="session")
def train_once(tmp_path_factory, run_tool):
    """A function (name, flags, fresh) -> run directory, which workers of pytest-xdist share.

    Beside it lie its outputs, `stdout` and `stderr`. Copy it to write into it.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of the folders that the workers have for themselves

    def train(name: str, *flags: str, fresh: bool = False) -> pathlib.Path:
        folder = root / name
        folder.mkdir(exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "stdout").exists():
                run_dir = f"--run_dir={folder / 'run'}"
                code, stdout, stderr = run_tool("train", *flags, run_dir, fresh=fresh)
                assert code == 0, stderr
                (folder / "stderr").write_text(stderr)
                (folder / "stdout").write_text(stdout)
        return folder / "run"

    return train


@pytest.fixture(scope="session")
def trained_run(train_once, tiny_run) -> pathlib.Path:
    """Run directory of a tiny run of all 1,437 digits, with a checkpoint of each epoch."""
    flags = ["--limit=0", "--batch_size=128", "--write_report"]
    flags += ["--checkpoint_every_steps=11", "--eval_every_epochs=1"]
    return train_once("trained", *tiny_run, *flags, fresh=True)


@pytest.fixture(scope="session")
def straight_run(train_once, tiny_run) -> pathlib.Path:
    """Run directory of the tiny run itself, which nothing has stopped."""
    return train_once("straight", *tiny_run)
