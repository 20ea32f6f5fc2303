"""Images per second from JPEG files to augmented batches, compared with Pillow in worker processes.

The floor is what people write first: each worker decodes a whole picture with Pillow, crops,
resizes with `Image.Resampling.BOX`, jitters with `ImageEnhance` and in HSV, and writes its view
into memory that it shares with the consumer. It has one worker a core. `Image.draft` (scaled
decoding) is not used; crops of these files are too small for it.
"""

import itertools
import math
import multiprocessing
import os
import tempfile

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from la_tf.benchmark.timing import Row, repeat
from la_tf.config import AugmentConfig
from la_tf.data.augment import DEVIATION, MEAN
from la_tf.data.checks import refuse_bad_images
from la_tf.data.folder import FolderSource
from la_tf.data.pipeline import Steps, train_dataset

WIDTH, HEIGHT = 500, 375  # the most frequent size in ImageNet
_QUALITY = 90


def measure(
    photographs: str | None = None,
    *,
    num_files: int = 256,
    image_size: int = 224,
    batch_size: int = 128,
    batches: int = 16,
    repetitions: int = 5,
) -> list[Row]:
    """Times `batches` batches of float32 [B, S, S, 3] from files in the cache of the system.

    Args:
      photographs: folder of pictures to cut to 500 x 375; None makes noise with the spectrum of
        photographs.
      num_files: how many JPEG files to make, at least B; photographs are used again if there are
        fewer.
      image_size: S.
      batch_size: B.
      batches: in each repetition.
      repetitions: how often.

    Returns:
      Two rows: this project's pipeline, and Pillow, its floor.

    Raises:
      DataError: `photographs` has no images or a bad one, or `num_files` is less than B.
    """
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        _write_files(folder, photographs, num_files)
        source = FolderSource(folder)
        steps = Steps(0, batches, batch_size, seed=0)
        dataset = train_dataset(source, steps, image_size=image_size, augment=AugmentConfig())
        paths = itertools.cycle([source.describe(i) for i in range(num_files)])
        shape = (batch_size, image_size, image_size, 3)
        # Not forked: TensorFlow has threads.
        context = multiprocessing.get_context("spawn")
        shared = context.RawArray("f", math.prod(shape))
        with context.Pool(cores, _open_batch, (shared, shape)) as pool:

            def ours() -> None:
                for _ in dataset:
                    pass

            def pillow() -> None:
                for step in range(batches):
                    jobs = [(row, next(paths), (step, row)) for row in range(batch_size)]
                    pool.starmap(_pillow_view, jobs, chunksize=math.ceil(batch_size / cores / 4))

            seconds = repeat({"input": ours, "input, Pillow": pillow}, repetitions)
    images = batches * batch_size
    return [
        Row("input", seconds["input"], "input, Pillow", images, f"{cores} cores"),
        Row("input, Pillow", seconds["input, Pillow"], None, images, f"{cores} processes"),
    ]


def _write_files(folder: str, photographs: str | None, count: int) -> None:
    originals = None if photographs is None else FolderSource(photographs)
    if originals is not None:
        refuse_bad_images(originals, range(min(count, originals.num_examples)))
    for i in range(count):
        if originals is None:
            picture = Image.fromarray(_natural_noise(i))
        else:
            path = originals.describe(i % originals.num_examples)
            picture = Image.open(path).convert("RGB")
            picture = ImageOps.fit(picture, (WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        picture.save(os.path.join(folder, f"{i:06d}.jpg"), quality=_QUALITY)


def _natural_noise(seed: int) -> np.ndarray:
    """Uint8 [375, 500, 3] whose amplitudes fall with frequency, grey more than coloured."""
    frequency = np.hypot(*np.meshgrid(np.fft.rfftfreq(WIDTH), np.fft.fftfreq(HEIGHT)))
    frequency[0, 0] = np.inf
    white = np.random.default_rng(seed).standard_normal((HEIGHT, WIDTH, 4))
    spectrum = np.fft.rfft2(white, axes=(0, 1)) / frequency[..., np.newaxis]
    layers = np.fft.irfft2(spectrum, s=(HEIGHT, WIDTH), axes=(0, 1))
    layers *= 50 / layers.std(axis=(0, 1))
    pixels = 128 + layers[..., :1] + 0.3 * layers[..., 1:]
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _open_batch(shared, shape: tuple[int, ...]) -> None:
    """Once in each worker: the memory that batches are written into."""
    global _batch
    _batch = np.frombuffer(shared, np.float32).reshape(shape)


def _pillow_view(row: int, path: str, seed: tuple[int, int]) -> None:
    """Writes one random view of a file into the shared batch."""
    config = AugmentConfig()
    rng = np.random.default_rng(seed)
    picture = Image.open(path).convert("RGB")
    side = _batch.shape[1]
    box = _random_box(picture.width, picture.height, config, rng)
    picture = picture.crop(box).resize((side, side), Image.Resampling.BOX)
    if rng.random() < config.greyscale_probability:
        picture = picture.convert("L").convert("RGB")
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhance(picture).enhance(1 + config.jitter * rng.uniform(-1, 1))
    turn = round(255 * config.hue_jitter * rng.uniform(-1, 1)) % 256
    hue, saturation, value = picture.convert("HSV").split()
    hue = hue.point(lambda h: (h + turn) % 256)
    picture = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(picture, np.float32) * np.float32(1 / 255)
    _batch[row] = (pixels - np.float32(MEAN)) / np.float32(DEVIATION)


def _random_box(
    width: int, height: int, config: AugmentConfig, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom), drawn as TensorFlow draws: aspect first, then a height."""
    aspect = rng.uniform(1 / config.crop_aspect, config.crop_aspect)
    lowest = math.sqrt(config.crop_area_min * width * height / aspect)
    crop_height = rng.uniform(lowest, max(lowest, min(height, width / aspect)))
    crop_width, crop_height = round(crop_height * aspect), round(crop_height)
    left = rng.integers(0, max(0, width - crop_width), endpoint=True)
    top = rng.integers(0, max(0, height - crop_height), endpoint=True)
    return left, top, left + crop_width, top + crop_height
