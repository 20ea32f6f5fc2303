"""A sample of the memory bank, with thumbnails, for TensorBoard's embedding projector."""

import math
import pathlib

import numpy as np
import tensorflow as tf
from tensorboard.plugins import projector

from la_tf.callbacks.pictures import thumbnails, tile, write_png, writing
from la_tf.callbacks.step_callback import EvaluationCallback
from la_tf.data.base import Source, sample_rows
from la_tf.phases import IR, OBJECTIVES

MAX_POINTS = 1000
THUMBNAIL = 48  # pixels; 32 rows of 32, far below the 8192 that browsers take
SPRITE = "projector_sprite.png"
METADATA = "projector_metadata.tsv"
TENSORS = {phase: f"bank_end_of_{phase}.tsv" for phase in (IR, *OBJECTIVES.values())}


class Projector(EvaluationCallback):
    """Writes the bank's rows at the ends of the warm start and of the run.

    Thumbnails, names and classes of the points are written once, before training, when all images
    have just been checked.
    """

    def __init__(self, directory: pathlib.Path, source: Source, *, seed: int, **epochs: int):
        """Describes the sample.

        Args:
          directory: TensorBoard's; it must exist.
          source: the training images, in the order of the bank.
          seed: chooses the sample.
          **epochs: when, see `EvaluationCallback`.
        """
        super().__init__(**epochs)
        self.directory = directory
        self.source = source
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
        if self.source.labels is not None:  # the projector shows the first column by default
            names = [self.source.class_names[label] for label in self.source.labels[self.rows]]
            points = [(name, *point) for name, point in zip(names, points, strict=True)]
            header = ("class", *header)
        # Tabs and line ends have no escape in this format.
        cells = [[" ".join(cell.split()) for cell in line] for line in (header, *points)]
        return "".join("\t".join(line) + "\n" for line in cells)

    def on_train_begin(self, logs=None):
        """Writes thumbnails and names again if they were removed from a resumed run."""
        super().on_train_begin(logs)
        if not all((self.directory / name).exists() for name in (SPRITE, METADATA)):
            self.before_training()

    def evaluate_epoch(self, epoch: int) -> None:
        """Writes the rows of the sample as they are."""
        vectors = tf.gather(self.model.bank.vectors, self.rows).numpy()
        path = self.directory / TENSORS[self.phase]
        with writing(path):
            # Text, since the plugin only takes a file for binary if it is not UTF-8. Nine digits
            # hold a float32 exactly.
            np.savetxt(path, vectors, fmt="%.9g", delimiter="\t")
            # Only now: the plugin shows nothing at all if a file that it is told of is missing.
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
