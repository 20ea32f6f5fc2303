"""Reads PASCAL VOC as its development kit lays it out.

Boxes are (xmin, ymin, xmax, ymax) in pixels as VOC counts them, from 1, with both ends inside: the
box (1, 1, 500, 375) covers a picture of 500 x 375 pixels. So do the metric and the drawings of the
detector.
"""

import collections
import dataclasses
import os
import pathlib
import re
from xml.etree import ElementTree

from PIL import Image

from la_tf.errors import UserError
from la_tf.files import open_regular

# A detector's label is the place in this tuple plus 1; 0 is the background.
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
Box = tuple[float, float, float, float]

_LABELS = {name: number for number, name in enumerate(VOC_CLASSES, start=1)}
_FOLDERS = ("JPEGImages", "Annotations", "ImageSets/Main")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_IMAGE_ID = re.compile(r"(?:([1-9]\d{3})_)?(\d{6})", re.ASCII)


class VOCError(UserError, ValueError):
    """VOC data that cannot be used; the message is one sentence that says what to do."""


@dataclasses.dataclass(frozen=True)
class VOCImage:
    """A picture and its N objects, in the order of its annotation.

    Attributes:
      image_id: '000045' in VOC2007, '2008_000001' in VOC2012.
      path: the picture.
      width: in pixels.
      height: in pixels.
      boxes: N of (xmin, ymin, xmax, ymax), pixels counted from 1, both ends inside. They are whole
        numbers in VOC2007; the few fractions in VOC2012 stay as the development kit reads them.
      classes: N labels 1..20, see `VOC_CLASSES`.
      difficult: N, whether evaluation ignores the object.
    """

    image_id: str
    path: pathlib.Path
    width: int
    height: int
    boxes: tuple[Box, ...]
    classes: tuple[int, ...]
    difficult: tuple[bool, ...]


def number_of(image_id: str) -> int:
    """The number that stands for an image where TF Model Garden wants one.

    Args:
      image_id: '000045' gives 45, '2008_000001' gives 2008000001.

    Raises:
      VOCError: it is no id of VOC.
    """
    if not (match := _IMAGE_ID.fullmatch(image_id)):
        raise VOCError(
            f"'{image_id}' is no id of a VOC image: name images like 000045 or 2008_000001."
        )
    return int((match[1] or "") + match[2])


def id_of(number: int) -> str:
    """The id of the image that a number stands for; undoes `number_of`."""
    year, within = divmod(number, 1_000_000)
    return f"{year}_{within:06d}" if year else f"{within:06d}"


def read_split(
    voc_dir: str | os.PathLike, split: str, skip_bad: bool = False
) -> tuple[list[VOCImage], list[str]]:
    """Reads the annotations of a split, and the header of each picture.

    Args:
      voc_dir: the folder of one year, such as VOCdevkit/VOC2007.
      split: the name of a list in ImageSets/Main: train, val, trainval or test.
      skip_bad: leave out images with a problem instead of raising.

    Returns:
      The images in the order of the list, and a sentence for each image left out.

    Raises:
      VOCError: the folder or the split cannot be used, no image is left, or, without `skip_bad`, an
        image has a problem.
    """
    voc_dir = _checked_folder(pathlib.Path(voc_dir))
    images, problems = [], []
    for image_id in _read_ids(voc_dir / "ImageSets" / "Main", split):
        try:
            images.append(_read_image(voc_dir, image_id))
        except VOCError as error:
            if not skip_bad:
                raise refusal(str(error)) from error
            problems.append(f"{error}.")
    if not images:
        raise VOCError(f"{voc_dir} has no image to use in its split {split}: {problems[0]}")
    return images, problems


def require_disjoint(voc_dir: str | os.PathLike, train_split: str, test_split: str) -> None:
    """Refuses to evaluate on training images.

    Raises:
      VOCError: an image is in both splits, or one of them cannot be read.
    """
    lists = _checked_folder(pathlib.Path(voc_dir)) / "ImageSets" / "Main"
    trained = set(_read_ids(lists, train_split))
    both = [image_id for image_id in _read_ids(lists, test_split) if image_id in trained]
    if both:
        raise VOCError(
            f"{len(both)} of the images of --test_split={test_split} are in "
            f"--train_split={train_split} too, {both[0]} for example: name splits without a common "
            "image."
        )


def refusal(problem: str) -> VOCError:
    """The error for an image that is not to be left out.

    Args:
      problem: what is wrong, a sentence without its full stop.
    """
    return VOCError(f"{problem}; repair it, or leave such images out with --skip_bad_images.")


def _checked_folder(voc_dir: pathlib.Path) -> pathlib.Path:
    missing = [name for name in _FOLDERS if not (voc_dir / name).is_dir()]
    if missing:
        years = sorted(path.parent for path in voc_dir.glob("**/JPEGImages") if path.is_dir())
        hint = f"{years[0]} for example" if years else "VOCdevkit/VOC2007 for example"
        raise VOCError(
            f"{voc_dir} has no {' and no '.join(missing)}: name the folder of one year of VOC that "
            f"holds {', '.join(_FOLDERS)}, {hint}."
        )
    return voc_dir


def _read_ids(lists: pathlib.Path, split: str) -> list[str]:
    path = lists / f"{split}.txt"
    if not path.is_file():
        # Beside the splits lie the lists of single classes, 'cat_train' for example.
        known = ", ".join(sorted(p.stem for p in lists.glob("*.txt") if "_" not in p.stem))
        raise VOCError(f"{path} is not there: choose a split of {known or 'a complete VOC'}.")
    lines = [line.split() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    if not lines:
        raise VOCError(f"{path} lists no image: name another split.")
    if any(len(words) != 1 for words in lines):
        raise VOCError(f"{path} does not list one id a line: name train, val, trainval or test.")
    ids = [words[0] for words in lines]
    image_id, count = collections.Counter(ids).most_common(1)[0]
    if count > 1:
        raise VOCError(f"{path} lists {image_id} {count} times: leave one of them.")
    return ids


def _read_image(voc_dir: pathlib.Path, image_id: str) -> VOCImage:
    """One image; the messages of its errors have no full stop: the caller adds what to do."""
    try:
        number_of(image_id)
    except VOCError as error:
        raise VOCError(str(error).removesuffix(".")) from error
    annotation = voc_dir / "Annotations" / f"{image_id}.xml"
    picture = voc_dir / "JPEGImages" / f"{image_id}.jpg"
    try:
        with open_regular(annotation) as file:
            root = ElementTree.parse(file).getroot()
    except FileNotFoundError as error:
        raise VOCError(f"the image {image_id} has no annotation {annotation}") from error
    except (ElementTree.ParseError, OSError, ValueError) as error:
        raise VOCError(f"{annotation} cannot be read as XML ({error})") from error
    try:
        with open_regular(picture) as file, Image.open(file) as opened:
            width, height = opened.size
    except FileNotFoundError as error:
        raise VOCError(f"{annotation} has no picture {picture}") from error
    except (OSError, Image.DecompressionBombError) as error:
        raise VOCError(f"{picture} cannot be read as a picture") from error
    stated = (_number(root, "size/width", annotation), _number(root, "size/height", annotation))
    if stated != (width, height):
        raise VOCError(
            f"{annotation} says {stated[0]:g} x {stated[1]:g} pixels and its picture has "
            f"{width} x {height}"
        )
    objects = root.findall("object")
    return VOCImage(
        image_id,
        picture,
        width,
        height,
        boxes=tuple(_box(element, width, height, annotation) for element in objects),
        classes=tuple(_label(element, annotation) for element in objects),
        # Some annotations of VOC2012 leave it out; the development kit then takes it for 0.
        difficult=tuple(e.findtext("difficult", "0").strip() == "1" for e in objects),
    )


def _box(element: ElementTree.Element, width: int, height: int, annotation: pathlib.Path) -> Box:
    xmin, ymin, xmax, ymax = (
        _number(element, f"bndbox/{corner}", annotation) for corner in _CORNERS
    )
    shown = f"{annotation} has the box ({xmin:g}, {ymin:g}, {xmax:g}, {ymax:g})"
    if xmax < xmin or ymax < ymin:
        raise VOCError(f"{shown}, which has no area")
    if not (xmin >= 1 and ymin >= 1 and xmax <= width and ymax <= height):
        raise VOCError(f"{shown} outside its picture of {width} x {height} pixels")
    return xmin, ymin, xmax, ymax


def _label(element: ElementTree.Element, annotation: pathlib.Path) -> int:
    name = (element.findtext("name") or "").strip()
    if name not in _LABELS:
        raise VOCError(f"{annotation} has an object of the unknown class '{name}'")
    return _LABELS[name]


def _number(element: ElementTree.Element, name: str, annotation: pathlib.Path) -> float:
    text = element.findtext(name)
    try:
        return float(text or "")
    except ValueError as error:
        found = "no" if text is None else f"'{text}' as"
        raise VOCError(f"{annotation} has {found} {name}") from error
