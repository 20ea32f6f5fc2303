"""A sample of the memory bank, with thumbnails, for TensorBoard's embedding projector."""

import math
import pathlib

import numpy as np
import tensorflow as tf
from tensorboard.plugins import projector

from la_tf.callbacks.pictures import thumbnails, tile, write_png, writing
from la_tf.callbacks.step_callback import StepCallback
from la_tf.data.base import Source, sample_rows
from la_tf.phases import IR, LA

MAX_POINTS = 1000
THUMBNAIL = 48  # pixels; 32 rows of 32, far below the 8192 that browsers take
SPRITE = "projector_sprite.png"
METADATA = "projector_metadata.tsv"
TENSORS = {phase: f"bank_end_of_{phase}.tsv" for phase in (IR, LA)}


class Projector(StepCallback):
    """Writes the bank's rows at the ends of the warm start and of the run.

    What the points are, their thumbnails, names and classes, is written once, before training, when
    all images were just seen to be there.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        source: Source,
        *,
        seed: int,
        steps_per_epoch: int,
        last_epoch: int,
    ):
        """Describes the sample.

        Args:
          directory: TensorBoard's; it must exist.
          source: the training images, in the order of the bank.
          seed: chooses the sample.
          steps_per_epoch: steps of one epoch.
          last_epoch: epochs in total.
        """
        super().__init__(steps_per_epoch)
        self.directory = directory
        self.source = source
        self.last_epoch = last_epoch
        self.rows = sample_rows(source.num_examples, MAX_POINTS, seed)

    def before_training(self) -> None:
        """Writes the thumbnails, and the index, class and name of each point.

        Raises:
          DataError: an image cannot be decoded.
          RunError: the files cannot be written.
        """
        images = thumbnails(self.source, self.rows, THUMBNAIL)
        side = math.ceil(math.sqrt(len(images)))  # the projector wants as many rows as columns
        cells = np.zeros((side * side, *images.shape[1:]), np.uint8)
        cells[: len(images)] = images
        write_png(self.directory / SPRITE, tile(cells.reshape(side, side, *images.shape[1:])))
        with writing(self.directory / METADATA):
            (self.directory / METADATA).write_text(self._metadata(), encoding="utf-8")

    def _metadata(self) -> str:
        points = [(str(i), self.source.describe(int(i))) for i in self.rows]
        header = ("index", "name")
        if self.source.labels is not None:  # in front: what the projector shows without being asked
            names = [self.source.class_names[label] for label in self.source.labels[self.rows]]
            points = [(name, *point) for name, point in zip(names, points, strict=True)]
            header = ("class", *header)
        # Tabs and line ends have no escape in this format.
        cells = [[" ".join(cell.split()) for cell in line] for line in (header, *points)]
        return "".join("\t".join(line) + "\n" for line in cells)

    def on_train_begin(self, logs=None):
        """Writes what describes the points, should it have been removed from a resumed run."""
        super().on_train_begin(logs)
        if not all((self.directory / name).exists() for name in (SPRITE, METADATA)):
            self.before_training()

    def on_epoch_end(self, epoch, logs=None):
        """Writes the rows of the sample when due."""
        if epoch + 1 == self.last_epoch or self.step == self.model.warm_start_steps:
            self._write(self.phase)

    def _write(self, phase: str) -> None:
        vectors = tf.gather(self.model.bank.vectors, self.rows).numpy()
        path = self.directory / TENSORS[phase]
        with writing(path):
            # Text, which the plugin reads for sure: it takes for binary what is no UTF-8. Nine
            # digits are float32, exactly.
            np.savetxt(path, vectors, fmt="%.9g", delimiter="\t")
            # The plugin fails altogether over a tensor that is named and not there.
            projector.visualize_embeddings(str(self.directory), self._config())

    def _config(self) -> projector.ProjectorConfig:
        config = projector.ProjectorConfig()
        for name in TENSORS.values():
            if (self.directory / name).exists():
                embedding = config.embeddings.add()
                embedding.tensor_name = name.removesuffix(".tsv")
                embedding.tensor_path = name
                embedding.metadata_path = METADATA
                embedding.sprite.image_path = SPRITE
                embedding.sprite.single_image_dim.extend([THUMBNAIL, THUMBNAIL])
        return config
