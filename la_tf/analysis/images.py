"""Images of a run and their embeddings; of many images a sample, so that a report stays quick."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from la_tf.analysis.part import Tile
from la_tf.data.augment import center_view, denormalize
from la_tf.data.base import Source, Subset, sample_rows
from la_tf.data.pipeline import EVAL_BATCH_SIZE
from la_tf.embedding.embedder import Embedder
from la_tf.runs.trained_run import TrainedRun

MAX_HELD_OUT = MAX_CROPS = 10_000
MAX_GALLERY = 50_000  # training images, where the bank does not hold their embeddings
_CROPS = "centre crops of {} training images"
_PARALLEL = 32  # images that are decoded at once


@dataclasses.dataclass(frozen=True)
class EmbeddedImages:
    """Q images, their embeddings as unit rows [Q, D], and what they are in words for a caption."""

    source: Source
    vectors: np.ndarray
    words: str


class RunImages:
    """The images of a run, or others in their place, and what its network makes of them.

    Images are read and embedded when something asks for them; `heldout` may be None.
    """

    def __init__(
        self, run: TrainedRun, train: Source, heldout: Source | None, say: Callable[[str], None]
    ):
        """Embeds nothing yet; `say` takes a sentence before anything that takes long."""
        self.run = run
        self.train = train
        self.heldout = heldout
        self._say = say
        self._embedder = Embedder(run.network)
        self._reader = functools.cache(self._reader)  # many figures show images of one source

    @property
    def labelled(self) -> bool:
        """Whether there are held-out images whose classes can be predicted."""
        return (
            self.heldout is not None
            and self.heldout.labels is not None
            and self.train.labels is not None
        )

    def gallery(self) -> EmbeddedImages:
        """What is searched for neighbours: the bank if it is of these images, else centre crops."""
        count = self.train.num_examples
        if self.run.holds(self.train):
            return EmbeddedImages(self.train, self.run.bank, f"the memory bank of {count:,} images")
        return self._embedded(self.train, MAX_GALLERY, _CROPS)

    def as_used(self, gallery: EmbeddedImages) -> EmbeddedImages:
        """`gallery`, or where that is the bank, the centre crops of its images or of a sample.

        Copies of an image have the same centre crop, while their rows of the bank are averages
        over other random views.
        """
        if gallery.vectors is not self.run.bank:
            return gallery
        return self._embedded(self.train, MAX_CROPS, _CROPS)

    def queries(self) -> EmbeddedImages:
        """The held-out images, or a sample of them."""
        return self._embedded(self.heldout, MAX_HELD_OUT, "centre crops of {} held-out images")

    def embed(self, source: Source, rows: np.ndarray) -> np.ndarray:
        """Embeds the centre crops of some images: [R, D] unit rows."""
        return self._embedder(self._center_views(source, rows))

    def pictures(self, source: Source, rows: np.ndarray) -> np.ndarray:
        """What the network sees of some images: uint8 [R, S, S, 3] centre crops."""
        views = [denormalize(views).numpy() for _, views in self._center_views(source, rows)]
        return np.concatenate(views)

    def tiles(self, source: Source, rows: np.ndarray) -> list[Tile]:
        """Some images with their classes."""
        if not len(rows):
            return []
        names = [""] * len(rows)
        if source.labels is not None:
            names = [source.class_names[label] for label in source.labels[rows]]
        return list(map(Tile, self.pictures(source, rows), names))

    def _center_views(
        self, source: Source, rows: np.ndarray
    ) -> Iterator[tuple[np.ndarray, tf.Tensor]]:
        """Batches of rows [B] and their centre views [B, S, S, 3]."""
        read = self._reader(source)
        for start in range(0, len(rows), EVAL_BATCH_SIZE):
            part = rows[start : start + EVAL_BATCH_SIZE]
            yield part, read(tf.constant(part, tf.int64))

    def _reader(self, source: Source) -> Callable[[tf.Tensor], tf.Tensor]:
        """Reads centre views of rows; traced once, which takes longer than to read a few images."""
        side = self.run.config.data.image_size

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)], autograph=False)
        def read(rows: tf.Tensor) -> tf.Tensor:
            with tf.device("CPU:0"):  # as in training; a GPU would round differently
                return tf.map_fn(
                    lambda row: center_view(source.load(row), side),
                    rows,
                    fn_output_signature=tf.TensorSpec([side, side, 3], tf.float32),
                    parallel_iterations=_PARALLEL,
                )

        return read

    def _embedded(self, source: Source, limit: int, words: str) -> EmbeddedImages:
        count = source.num_examples
        rows = sample_rows(count, limit, self.run.config.schedule.seed)
        some = f"{len(rows):,} sampled of {count:,}" if len(rows) < count else f"{count:,}"
        words = words.format(some)
        self._say(f"embedding {words} ...")
        chosen = Subset(source, rows) if len(rows) < count else source
        return EmbeddedImages(chosen, self.embed(chosen, np.arange(len(rows))), words)


def file_name(source: Source, row: int) -> str:
    """The name of an image without its folders."""
    return pathlib.PurePath(source.key(int(row))).name
