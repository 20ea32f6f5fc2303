"""The callbacks of one run, wired to each other and to the files of its directory."""

import functools
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from la_tf.callbacks.checkpointing import Checkpointing
from la_tf.callbacks.clustering_rounds import ClusteringCallback
from la_tf.callbacks.deepcluster_rounds import DeepClusterCallback
from la_tf.callbacks.exported_network import ExportedNetwork
from la_tf.callbacks.heldout_knn import KNNCallback
from la_tf.callbacks.milestones import Milestones
from la_tf.callbacks.own_callbacks import OwnCallbacks, make_callbacks
from la_tf.callbacks.pictures import write_augmented_views
from la_tf.callbacks.progress import Progress
from la_tf.callbacks.projector import Projector
from la_tf.callbacks.tensorboard import DensityHistograms, TensorBoardScalars, tensorboard_folder
from la_tf.callbacks.train_log import TrainLog
from la_tf.callbacks.warm_start_end import WarmStartEnd
from la_tf.config import Config, ConfigError
from la_tf.data.base import Source, Subset, sample_rows
from la_tf.data.pipeline import kept_eval_dataset, steps_per_epoch
from la_tf.embedding.embedder import Embedder, pixels
from la_tf.evaluation.neighbor_quality import neighbor_quality
from la_tf.networks import top_features
from la_tf.results.knn_metric import record_fields
from la_tf.runs import runtime
from la_tf.runs.health import HealthMonitor
from la_tf.runs.log import RunLog, parse_record
from la_tf.runs.warm_start import warm_start_end
from la_tf.schedules import Plateau

DENSITY_SAMPLE = 1000
NEIGHBOR_SAMPLE = 512


class RunCallbacks:
    """The callbacks and logs of one run.

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
          path: the run directory of this worker.
          restore_from: where checkpoints are restored from.

        Raises:
          ConfigError: a plateau rule is asked for, and no held-out images have labels; or
            `--callbacks` cannot be used.
        """
        self.config = config
        self.train_set = train_set
        self.heldout = heldout
        self.path = path
        self.evaluates = (
            heldout is not None and heldout.labels is not None and train_set.labels is not None
        )
        self._model = model
        self._embedder = Embedder(model.network)
        # Traced once for each source, not for each evaluation.
        self._views = functools.cache(
            functools.partial(kept_eval_dataset, image_size=config.data.image_size)
        )
        self._sample_rows = sample_rows(
            train_set.num_examples, NEIGHBOR_SAMPLE, config.schedule.seed
        )
        self._sample = Subset(train_set, self._sample_rows)
        spe = steps_per_epoch(train_set.num_examples, config.data.batch_size)
        self._progress = Progress(spe * config.schedule.epochs, spe, config.data.batch_size)
        self._tensorboard = tensorboard_folder(path)
        self._writer = tf.summary.create_file_writer(str(self._tensorboard))
        scalars = TensorBoardScalars(self._writer)
        monitor = HealthMonitor(config.network.dim, self._progress.say)
        self._own = own = OwnCallbacks(
            make_callbacks(config, path), lambda why: self.checkpointing.leave(why)
        )
        listeners = [monitor, scalars, self._progress, own.on_record]
        self.log = RunLog(path / "metrics.jsonl", listeners)
        timing = RunLog(path / "timing.jsonl", [scalars, self._progress])
        patience = config.optimizer.plateau_patience
        plateau = Plateau(model.optimizer, patience) if patience else None
        if plateau is not None and not self.evaluates:
            raise ConfigError(
                "--plateau_patience needs labelled held-out images: give --val_data or --holdout."
            )
        self._add_evaluations(plateau, spe)
        self.checkpointing = Checkpointing(
            model,
            path / "checkpoints",
            log=self.log,
            every_steps=config.run.checkpoint_every_steps,
            every_minutes=config.run.checkpoint_every_minutes,
            keep=config.run.keep_checkpoints,
            restore_from=restore_from,
            alone=runtime.num_workers(model.distribute_strategy) == 1,
            steps_per_epoch=spe,
            **({"plateau": plateau} if plateau else {}),
        )
        for_clustering = {
            "seed": config.schedule.seed,
            "log": self.log,
            "timing": timing,
            "say": self._progress.say,
            "steps_per_epoch": spe,
        }
        clustering = self._clustering(for_clustering)
        train_log = TrainLog(
            log=self.log,
            timing=timing,
            every=config.report.log_every_steps,
            batch_size=config.data.batch_size,
            steps_per_epoch=spe,
        )
        warm_start_end = (
            [WarmStartEnd(log=self.log, steps_per_epoch=spe)]
            if config.schedule.ir_until_plateau
            else []
        )
        evaluations = (self._knn, self._milestones, self._densities, self._projector)
        self._evaluations = [c for c in (*evaluations, self._exported) if c]
        self.in_order = [
            self._progress,
            *clustering,
            train_log,
            *warm_start_end,
            *self._evaluations,
            own,
            self.checkpointing,
        ]

    def _clustering(self, options: dict[str, Any]) -> list[ClusteringCallback]:
        """What clusters for the method, if anything does."""
        config, network = self.config, self._model.network
        if config.method.method == "supervised":
            return []
        if config.method.method == "deepcluster":
            features = Embedder(top_features(network))
            return [
                DeepClusterCallback(
                    config.clustering,
                    pca_dim=config.method.pca_dim,
                    center_crop_embeddings=lambda: features(self._views(self.train_set)),
                    **options,
                )
            ]
        embed = functools.partial(self._embed, self.train_set)
        return [
            ClusteringCallback(
                config.clustering,
                center_crop_embeddings=embed,
                describe_neighbors=self._describe_neighbors,
                **options,
            )
        ]

    def _add_evaluations(self, plateau: Plateau | None, steps_per_epoch: int) -> None:
        """Sets the callbacks that evaluate, or None for those that this run has no use for."""
        config, seed = self.config, self.config.schedule.seed
        phase_ends = {"steps_per_epoch": steps_per_epoch, "last_epoch": config.schedule.epochs}
        epochs = phase_ends | {"every_epochs": config.report.eval_every_epochs}
        self._knn = self._milestones = self._projector = None
        both = (self.train_set, self.heldout)
        if self.evaluates:
            for_knn = {
                "train_labels": self.train_set.labels,
                "heldout_labels": self.heldout.labels,
                "log": self.log,
                "tau": config.objective.tau,
            }
            self._knn = KNNCallback(
                embed_heldout=lambda: self._embed(self.heldout),
                plateau=plateau,
                **for_knn,
                **epochs,
            )
        if self.evaluates and config.report.baselines:
            self._milestones = Milestones(
                embed=lambda: [self._embed(source) for source in both],
                raw_pixels=lambda: [pixels(self._views(source)) for source in both],
                **({"start": "weights of --init_from"} if config.run.init_from else {}),
                **for_knn,
                **phase_ends,
            )
        self._exported = ExportedNetwork(
            embed_sample=lambda: self._embed_sample()[1], log=self.log, **phase_ends
        )
        rows = sample_rows(self.train_set.num_examples, DENSITY_SAMPLE, seed)
        self._densities = DensityHistograms(self._writer, rows, log=self.log, **epochs)
        if runtime.is_chief(self._model.distribute_strategy):
            self._projector = Projector(self._tensorboard, self.train_set, seed=seed, **phase_ends)

    def _embed(self, source: Source) -> np.ndarray:
        return self._embedder(self._views(source))

    def _embed_sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Some training images, by number, and the embeddings of their centre crops now."""
        return self._sample_rows, self._embed(self._sample)

    def _describe_neighbors(self) -> dict[str, float | None]:
        """The neighbours that a sample of the training images has now, found by centre crops."""
        return neighbor_quality(self._model, *self._embed_sample(), self.train_set.labels)

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

    def take_over(self, checkpoint: pathlib.Path, whole: bool) -> int:
        """Starts from a checkpoint of another run, see `Checkpointing.take_over`, with its log.

        What that run evaluated only because it ended there is left out.

        Returns:
          The step it was saved at.

        Raises:
          RunError: it cannot be taken over.
        """
        lines = self.checkpointing.take_over(checkpoint, whole)
        step = int(self._model.optimizer.iterations.numpy())
        parsed = [(line, parse_record(line)) for line in lines]
        records = [record for _, record in parsed if record is not None]
        warm_start = warm_start_end(self.config, self.checkpointing.steps_per_epoch, records)
        undue = {
            kind
            for callback in self._evaluations
            for kind in callback.kinds
            if not callback.is_due(step, warm_start)
        }
        self.log.begin_with(
            line
            for line, record in parsed
            if record is None or record["step"] < step or record["kind"] not in undue
        )
        return step

    def before_training(self) -> None:
        """Evaluates the network as it is, so that what cannot work fails before the training."""
        if self._milestones:
            self._milestones.before_training()
        if self._knn:
            self.log.write("knn", 0, 0, **record_fields(self._knn.evaluate(self._model)))
        self._densities.write(self._model)

    def close(self) -> None:
        """Closes the progress bar, writes what TensorBoard has not got yet, ends own callbacks."""
        self._progress.close()
        self._writer.flush()
        self._own.close()
