"""A run opened again to be looked at: its network, its bank, its images; nothing is written."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from la_tf.building import EMBEDDING, network_of, with_preprocessing
from la_tf.config import Config, NumericsConfig
from la_tf.data.base import Source, align_labels
from la_tf.data.checks import keep_good_images
from la_tf.data.identity import identify
from la_tf.data.pipeline import steps_per_epoch
from la_tf.data.sources import open_source, open_train_and_val
from la_tf.errors import RunError, first_line
from la_tf.phases import phase_after
from la_tf.runs import runtime
from la_tf.runs.checkpoints import present_checkpoints
from la_tf.runs.description import Origin, read_description, read_origin
from la_tf.runs.log import read_log
from la_tf.runs.warm_start import warm_start_end

_VALUE = ".ATTRIBUTES/VARIABLE_VALUE"  # behind the name of a variable


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """What the newest checkpoint of a run holds.

    Attributes:
      path: the run directory.
      config: the run's effective configuration.
      data: sizes and fingerprints of the images it was trained and evaluated on.
      step: steps done.
      network: normalised images [B, S, S, 3], see `data.augment.normalize` -> unit embeddings [B,
        D], with the trained weights, in float32. `keras_model` takes images as they are.
      read_bank: reads the memory bank, [N, D] unit rows; it may raise RunError.
      read_clusters: reads the labels [N, H] of the last clustering, -1 before the first; None where
        the method has none.
    """

    path: pathlib.Path
    config: Config
    data: dict[str, Any]
    step: int
    network: tf.keras.Model
    read_bank: Callable[[], np.ndarray]
    read_clusters: Callable[[], np.ndarray] | None = None

    @functools.cached_property
    def bank(self) -> np.ndarray:
        """The memory bank, [N, D] unit rows; read when it is first asked for.

        Raises:
          RunError: it cannot be read.
        """
        return self.read_bank()

    @property
    def num_examples(self) -> int:
        """N, the training images."""
        return self.data["training set"]["examples"]

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch."""
        return steps_per_epoch(self.num_examples, self.config.data.batch_size)

    @property
    def epoch(self) -> float:
        """Epochs done."""
        return self.step / self.steps_per_epoch

    @functools.cached_property
    def warm_start_steps(self) -> int:
        """How many of its first steps are instance recognition."""
        log = self.path / "metrics.jsonl"
        records = read_log(log) if log.exists() else []
        return warm_start_end(self.config, self.steps_per_epoch, records)

    @functools.cached_property
    def origin(self) -> Origin | None:
        """What it began with; None for random weights."""
        return read_origin(self.path)

    @property
    def objective(self) -> str:
        """What it was trained by last, see `phases`; 'untrained' at step 0."""
        return phase_after(self.step, self.warm_start_steps, self.method)

    @property
    def method(self) -> str:
        """Local Aggregation or a baseline, by its name in `--method`."""
        return self.config.method.method

    def holds(self, train_set: Source) -> bool:
        """Whether these are the images whose rows the bank holds, in its order."""
        return identify(train_set) == self.data["training set"]

    def keras_model(self, level: str = EMBEDDING) -> tf.keras.Model:
        """The trained network with its preprocessing, as a Keras model to use and to train on.

        It has weights of its own: to train it changes nothing of the run. `model.save("x.keras")`
        keeps it, and `tf.keras.models.load_model` loads it where this library is not installed; a
        ResNet after `import la_tf.networks`, which makes its blocks known.

        Args:
          level: 'embedding', or one of the layers conv1 to conv5 of the readouts.

        Returns:
          RGB images [B, S, S, 3] from 0 to 255, of any integers or fractions, not normalised ->
          unit embeddings [B, D], or the features [B, h, w, C] of the level, after batch
          normalisation and ReLU. It does not resize: S is the run's `image_size`.

        Raises:
          ValueError: there is no such level.
        """
        one_device = dataclasses.replace(self.config.network, sync_bn=False)
        network = network_of(dataclasses.replace(self.config, network=one_device))
        network.set_weights(self.network.get_weights())
        return with_preprocessing(network, level)

    def untrained_network(self) -> tf.keras.Model:
        """The network as it was before the first step, or would have been without --init_from."""
        tf.keras.utils.set_random_seed(self.config.schedule.seed)
        return network_of(self.config)


def open_run(run_dir: str) -> TrainedRun:
    """Opens a run by its newest checkpoint.

    Determinism is switched on for the whole process, so that what is measured can be repeated.

    Args:
      run_dir: as `tools/train.py` made it.

    Raises:
      RunError: there is no such run, no checkpoint of it, or one that cannot be read.
      ConfigError: its network cannot be built.
    """
    path = pathlib.Path(run_dir).expanduser()
    config, _ = read_description(path)
    runtime.configure(NumericsConfig(), config.schedule.seed)
    return restored_run(path)


def restored_run(path: pathlib.Path) -> TrainedRun:
    """What `open_run` gives, and in a process that stays as it is.

    Raises:
      RunError, ConfigError: as there.
    """
    config, data = read_description(path)
    tried, failure = None, None
    # Training may go on meanwhile, and remove a checkpoint for which there is a newer one then.
    while (checkpoint := _newest(path)) != tried:
        tried = checkpoint
        network = network_of(config)
        try:
            # It keeps its file open, so that the bank can be read when that has been removed.
            reader = tf.train.load_checkpoint(checkpoint)
            step = int(reader.get_tensor(f"model/optimizer/_iterations/{_VALUE}"))
            restored = tf.train.Checkpoint(model=tf.train.Checkpoint(network=network))
            # Bank, labels and optimizer stay behind: few ask for the bank, which is large.
            restored.restore(checkpoint).assert_existing_objects_matched().expect_partial()
        except Exception as error:  # a damaged file can break TensorFlow's readers in many ways
            failure = error
        else:
            read = functools.partial(_read, reader, checkpoint)
            clusters = f"model/cluster_labels/{_VALUE}"
            return TrainedRun(
                *(path, config, data, step, network),
                read_bank=functools.partial(read, f"model/bank/vectors/{_VALUE}"),
                read_clusters=functools.partial(read, clusters)
                if reader.has_tensor(clusters)
                else None,
            )
    raise _unreadable(checkpoint, failure) from failure


def _newest(path: pathlib.Path) -> str:
    checkpoints = present_checkpoints(path / "checkpoints")
    if not checkpoints:
        raise RunError(f"{path} holds no checkpoint: train it first, or restore its checkpoints.")
    return checkpoints[-1]


def _read(reader, checkpoint: str, name: str) -> np.ndarray:
    try:
        return reader.get_tensor(name)
    except Exception as error:  # as above
        raise _unreadable(checkpoint, error) from error


def _unreadable(checkpoint: str, error: Exception) -> RunError:
    return RunError(
        f"the checkpoint {checkpoint} cannot be read ({first_line(error)}): restore it, or remove "
        "its files to use an older one."
    )


def open_images(
    run: TrainedRun,
    data: str | None = None,
    val_data: str | None = None,
    holdout: int = 0,
    say: Callable[[str], None] = print,
) -> tuple[Source, Source | None]:
    """The images of a run, or others to evaluate it on.

    Args:
      run: whose images, and whose `skip_bad_images` and `max_megapixels`.
      data: other images than the run's, or the run's at another place.
      val_data: other held-out images; default the run's, or with `data` as in training.
      holdout: as in training; only with `data`, since a run has its own.
      say: takes a sentence about images left out.

    Returns:
      (train, held out); held out is None where nothing is.

    Raises:
      DataError: images are missing or unusable, or held-out classes are unknown in training.
    """
    config, seed = run.config.data, run.config.schedule.seed
    if data is not None:
        config = dataclasses.replace(config, data=data, val_data=val_data, holdout=holdout)
    train_set, heldout = open_train_and_val(config, seed)
    if data is not None and config.limit and not run.holds(train_set):
        # Not the run's images at another place: of others, all are meant.
        config = dataclasses.replace(config, limit=0)
        train_set, heldout = open_train_and_val(config, seed)
    if data is None and val_data is not None:
        # Whatever the run held out stays out of its training images.
        heldout = align_labels(open_source(val_data, "val"), train_set)
    checked = []
    for source in (train_set, heldout):
        if source is not None:
            source = keep_good_images(source, config, say)
        checked.append(source)
    return tuple(checked)
