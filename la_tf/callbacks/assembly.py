"""The callbacks of one run, wired to each other and to the files of its directory."""

import pathlib

import numpy as np
import tensorflow as tf

from la_tf.callbacks.checkpointing import Checkpointing
from la_tf.callbacks.clustering_rounds import ClusteringCallback
from la_tf.callbacks.heldout_knn import KNNCallback
from la_tf.callbacks.milestones import Milestones
from la_tf.callbacks.pictures import write_augmented_views
from la_tf.callbacks.progress import Progress
from la_tf.callbacks.projector import Projector
from la_tf.callbacks.tensorboard import DensityHistograms, TensorBoardScalars
from la_tf.callbacks.train_log import TrainLog
from la_tf.config import Config, ConfigError
from la_tf.data.base import Source, sample_rows
from la_tf.data.pipeline import eval_dataset, steps_per_epoch
from la_tf.embedding.embedder import Embedder, pixels
from la_tf.results.knn_metric import named
from la_tf.runs import runtime
from la_tf.runs.health import HealthMonitor
from la_tf.runs.log import RunLog
from la_tf.schedules import Plateau

DENSITY_SAMPLE = 1000


class RunCallbacks:
    """Everything that happens around the training steps of one run.

    Attributes:
      in_order: the callbacks as `fit` takes them.
      log: metrics.jsonl.
      checkpointing: saves and restores.
      evaluates: whether there are labels for kNN of held-out images.
    """

    def __init__(
        self,
        config: Config,
        model: tf.keras.Model,
        train_set: Source,
        heldout: Source | None,
        path: pathlib.Path,
        restore_from: pathlib.Path,
    ):
        """Opens the logs and puts the callbacks together.

        Args:
          config: the resolved configuration.
          model: compiled, under the strategy that it is trained with.
          train_set: the training images, in the order of the bank.
          heldout: the held-out images, if any.
          path: this worker's directory.
          restore_from: where checkpoints are restored from.

        Raises:
          ConfigError: the plateau rule has nothing to look at.
        """
        self.config = config
        self.model = model
        self.train_set = train_set
        self.heldout = heldout
        self.path = path
        self.evaluates = (
            heldout is not None and heldout.labels is not None and train_set.labels is not None
        )
        self._embedder = Embedder(model.network)
        self._steps_per_epoch = steps_per_epoch(train_set.num_examples, config.data.batch_size)
        # What all those want to know that do something at the end of some epochs.
        self._epochs = {
            "steps_per_epoch": self._steps_per_epoch,
            "last_epoch": config.schedule.epochs,
        }
        self._open_logs()
        patience = config.optimizer.plateau_patience
        plateau = Plateau(model.optimizer, patience) if patience else None
        if plateau is not None and not self.evaluates:
            raise ConfigError(
                "--plateau_patience needs labelled held-out images: give --val_data or --holdout."
            )
        self._knn = self._build_knn(plateau) if self.evaluates else None
        with_baselines = self.evaluates and config.report.baselines
        self._milestones = self._build_milestones() if with_baselines else None
        self._densities = self._projector = None
        if runtime.is_chief(model.distribute_strategy):
            self._densities = self._build_densities()
            self._projector = Projector(
                path / "tensorboard", train_set, seed=config.schedule.seed, **self._epochs
            )
        self.checkpointing = self._build_checkpointing(restore_from, plateau)
        optional = (self._knn, self._milestones, self._densities, self._projector)
        self.in_order = [
            self._progress,
            self._build_clustering(),
            self._build_train_log(),
            *(callback for callback in optional if callback),
            self.checkpointing,
        ]

    def _open_logs(self) -> None:
        config, spe = self.config, self._steps_per_epoch
        self._progress = Progress(spe * config.schedule.epochs, spe, config.data.batch_size)
        self._writer = tf.summary.create_file_writer(str(self.path / "tensorboard"))
        scalars = TensorBoardScalars(self._writer)
        monitor = HealthMonitor(config.network.dim, self._progress.say)
        self.log = RunLog(self.path / "metrics.jsonl", [monitor, scalars, self._progress])
        self._timing = RunLog(self.path / "timing.jsonl", [scalars, self._progress])

    def _build_knn(self, plateau: Plateau | None) -> KNNCallback:
        return KNNCallback(
            embed_heldout=lambda: self._embed(self.heldout),
            heldout_labels=self.heldout.labels,
            train_labels=self.train_set.labels,
            every_epochs=self.config.report.eval_every_epochs,
            log=self.log,
            tau=self.config.objective.tau,
            plateau=plateau,
            **self._epochs,
        )

    def _build_milestones(self) -> Milestones:
        both = (self.train_set, self.heldout)
        return Milestones(
            embed=lambda: [self._embed(source) for source in both],
            raw_pixels=lambda: [pixels(self._views(source)) for source in both],
            train_labels=self.train_set.labels,
            heldout_labels=self.heldout.labels,
            log=self.log,
            tau=self.config.objective.tau,
            **self._epochs,
        )

    def _build_densities(self) -> DensityHistograms:
        rows = sample_rows(self.train_set.num_examples, DENSITY_SAMPLE, self.config.schedule.seed)
        every = self.config.report.eval_every_epochs
        return DensityHistograms(self._writer, rows, every_epochs=every, **self._epochs)

    def _build_checkpointing(
        self, restore_from: pathlib.Path, plateau: Plateau | None
    ) -> Checkpointing:
        run = self.config.run
        state = {"plateau": plateau} if plateau else {}
        return Checkpointing(
            self.model,
            self.path / "checkpoints",
            log=self.log,
            every_steps=run.checkpoint_every_steps,
            every_minutes=run.checkpoint_every_minutes,
            keep=run.keep_checkpoints,
            restore_from=restore_from,
            alone=runtime.num_workers(self.model.distribute_strategy) == 1,
            steps_per_epoch=self._steps_per_epoch,
            **state,
        )

    def _build_clustering(self) -> ClusteringCallback:
        return ClusteringCallback(
            self.config.clustering,
            warm_start_steps=self.model.warm_start_steps,
            seed=self.config.schedule.seed,
            log=self.log,
            timing=self._timing,
            say=self._progress.say,
            center_crop_embeddings=lambda: self._embed(self.train_set),
            steps_per_epoch=self._steps_per_epoch,
        )

    def _build_train_log(self) -> TrainLog:
        return TrainLog(
            log=self.log,
            timing=self._timing,
            every=self.config.report.log_every_steps,
            batch_size=self.config.data.batch_size,
            steps_per_epoch=self._steps_per_epoch,
        )

    def _views(self, source: Source) -> tf.data.Dataset:
        return eval_dataset(source, image_size=self.config.data.image_size)

    def _embed(self, source: Source) -> np.ndarray:
        return self._embedder(self._views(source))

    def show_images(self) -> None:
        """Draws the sheet of augmented views and the projector's thumbnails; the chief alone does.

        Raises:
          DataError: an image cannot be decoded.
          RunError: a file cannot be written.
        """
        if self._projector is None:
            return
        self._projector.before_training()
        write_augmented_views(
            self.train_set,
            image_size=self.config.data.image_size,
            seed=self.config.schedule.seed,
            augment=self.config.augment,
            writer=self._writer,
            path=self.path / "figures" / "augmented_views.png",
        )

    def before_training(self) -> None:
        """Evaluates the untrained network, so that an evaluation fails now or never."""
        if self._milestones:
            self._milestones.before_training()
        if self._knn:
            self.log.write("knn", 0, 0, **named(self._knn.evaluate(self.model)))
        if self._densities:
            self._densities.write(self.model)

    def close(self) -> None:
        """Leaves the terminal tidy and writes out the rest for TensorBoard."""
        self._progress.close()
        self._writer.flush()
