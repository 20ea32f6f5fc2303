"""Photographs turned upright: cameras store how they were held beside the pixels."""

import io
import pathlib

from PIL import ExifTags, Image, ImageOps

from la_tf.config import DataConfig
from la_tf.data.image_headers import PictureError, count_pixels
from la_tf.files import open_regular


def open_upright(
    path: pathlib.Path, max_megapixels: float = DataConfig.max_megapixels
) -> tuple[Image.Image, bytes]:
    """Reads a picture and turns it as its EXIF orientation says.

    Args:
      path: of a JPEG or PNG picture.
      max_megapixels: the most pixels that it may have, in millions.

    Returns:
      (the picture, its encoded bytes): those of the file, or where it had to be turned a PNG's.

    Raises:
      ValueError: it cannot be read; the message is a sentence with its path.
    """
    try:
        with open_regular(path) as file:
            encoded = file.read()
        count_pixels(encoded, max_megapixels)
        picture = Image.open(io.BytesIO(encoded))
        if picture.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return picture, encoded
        upright = ImageOps.exif_transpose(picture).convert("RGB")
    except PictureError as error:
        raise ValueError(f"{path} cannot be read: it {error}.") from error
    except OSError as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} cannot be read: {reason}.") from error
    file = io.BytesIO()
    upright.save(file, "PNG", compress_level=1)  # fast, since it is read again at once
    return upright, file.getvalue()
