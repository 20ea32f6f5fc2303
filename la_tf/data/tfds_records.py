"""Any image data set of TensorFlow Datasets, by name.

Random access goes through an index of the TFRecord shards that TFDS itself has prepared. Random
access by TFDS (`tfds.data_source`) needs another file format, so every data set already on disk,
ImageNet above all, would have to be prepared again. The index takes one pass over the shards and no
second copy; it is kept in the user's cache folder.
"""

import hashlib
import os

from la_tf.data.base import DataError
from la_tf.data.record_writer import complete_or_absent, index_foreign_shards
from la_tf.data.records import RecordSource
from la_tf.errors import first_line

HELD_OUT_SPLITS = ("validation", "test")
_NAME_FEATURES = ("file_name", "filename", "image/filename", "id")


class TfdsDataset:
    """One data set of TensorFlow Datasets, downloaded and prepared if it is not yet."""

    def __init__(self, name: str):
        """Prepares the data set.

        Args:
          name: as TFDS takes it, `cifar10` or `imagenet2012:5.1.0`; found or prepared in
            $TFDS_DATA_DIR, or where TFDS keeps data by default.

        Raises:
          DataError: TFDS does not know the name, or cannot prepare the data.
        """
        # Imported here: it takes seconds, and only this source needs it.
        import tensorflow_datasets as tfds

        self.name = f"tfds:{name}"
        try:
            self._builder = tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))
        except Exception as error:  # what was prepared before may be damaged
            raise DataError(
                f"TensorFlow Datasets knows no '{name}' ({first_line(error)}): see "
                "https://www.tensorflow.org/datasets/catalog for the names."
            ) from error
        try:
            self._builder.download_and_prepare()
        except Exception as error:  # each data set fails in its own ways
            raise DataError(
                f"TensorFlow Datasets cannot prepare '{name}' ({first_line(error)}): prepare it "
                f"once with `tfds build {name}`."
            ) from error
        self.splits = tuple(self._builder.info.splits)
        self._tfds = tfds

    def open(self, split: str) -> RecordSource:
        """The examples of one split, in the order of its shards.

        Args:
          split: one of `splits`.

        Raises:
          DataError: no such split, no image feature, or a file format other than TFRecord.
        """
        info = self._builder.info
        name = f"{self.name}/{split}"
        if split not in self.splits:
            raise DataError(f"{self.name} has no split '{split}': it has {', '.join(self.splits)}.")
        if info.file_format.value != "tfrecord":
            raise DataError(
                f"{self.name} was prepared as {info.file_format.value}: prepare it as tfrecord."
            )
        folder = _cache_folder(info.full_name, str(self._builder.data_dir), split)
        try:
            return RecordSource(folder, name)
        except DataError:  # no index yet, or the data set has been prepared again
            pass
        self._write_index(split, folder)
        return RecordSource(folder, name)

    def _write_index(self, split: str, folder: str) -> None:
        info = self._builder.info
        image_key, label_key = self._keys()
        texts = [k for k in info.features if isinstance(info.features[k], self._tfds.features.Text)]
        name_key = next((key for key in _NAME_FEATURES if key in texts), None)
        index = index_foreign_shards(
            [str(path) for path in info.splits[split].filepaths],
            image_key,
            label_key,
            name_key,
            info.features[label_key].names if label_key else None,
        )
        with complete_or_absent(folder, replace=True) as unfinished:
            index.save(unfinished)

    def _keys(self) -> tuple[str, str | None]:
        """The features of the image and of the class: the supervised pair, else the first ones."""
        features, kinds = self._builder.info.features, self._tfds.features
        supervised = [key for key in self._builder.info.supervised_keys or () if key in features]
        order = [*supervised, *sorted(features)]
        images = [key for key in order if isinstance(features[key], kinds.Image)]
        labels = [key for key in order if isinstance(features[key], kinds.ClassLabel)]
        if not images:
            raise DataError(
                f"{self.name} has no image feature (it has {', '.join(sorted(features))}): choose "
                "a data set of images."
            )
        return images[0], labels[0] if labels else None


def _cache_folder(full_name: str, data_dir: str, split: str) -> str:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    place = hashlib.sha256(data_dir.encode("utf-8")).hexdigest()[:12]
    return os.path.join(cache, "la_tf", "tfds", full_name.replace("/", "-"), place, split)
