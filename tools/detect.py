"""Finds objects in pictures with a fine-tuned detector, and draws their boxes.

python tools/detect.py --export_dir=RUN/voc07/export --image=FILE_OR_FOLDER --output=FILE_OR_FOLDER
"""

import collections
import math
import pathlib
import sys

import command_line
import config_flags
from absl import flags

from la_tf.config import DataConfig

_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", None, "A SavedModel of tools/finetune_voc.py.", required=True
)
_IMAGE = flags.DEFINE_string("image", None, "A JPEG or PNG picture, or a folder.", required=True)
_OUTPUT = flags.DEFINE_string(
    "output", None, "The drawing, or the folder of drawings; default IMAGE-boxes."
)
_MIN_SCORE = flags.DEFINE_float(
    "min_score", 0.5, "Of the objects that are shown.", lower_bound=0, upper_bound=1
)
flags.register_validator(_MIN_SCORE, math.isfinite, "give a number")  # NaN is within all bounds
_MAX_MEGAPIXELS = config_flags.define_option(
    "max_megapixels", DataConfig.max_megapixels, "Millions of pixels in a picture."
)


def main() -> None:
    """Prints the objects of each picture, the most certain first, and writes the drawings."""
    command_line.parse(sys.argv, __doc__)
    image = pathlib.Path(_IMAGE.value).expanduser()
    default = f"{image}-boxes" if image.is_dir() else f"{image.with_suffix('')}-boxes.png"
    output = pathlib.Path(_OUTPUT.value or default).expanduser()
    if output.resolve() == image.resolve():
        command_line.fail("--output is --image itself: give it another name.")
    from detection.photographs import open_upright

    if not image.is_dir():
        with command_line.failures_explained(ValueError):
            open_upright(image, _MAX_MEGAPIXELS.value)
    # TensorFlow takes seconds to import: only once the picture is known to be one.
    from detection.export import load_detector

    drawings = _drawings(image, output) if image.is_dir() else {image: output}
    detect = load_detector(pathlib.Path(_EXPORT_DIR.value).expanduser())
    problems = []
    for path, drawing in drawings.items():
        try:
            _show_objects(detect, path, drawing)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        command_line.fail("\n".join(problems))


def _drawings(folder: pathlib.Path, output: pathlib.Path) -> dict[pathlib.Path, pathlib.Path]:
    """The pictures of a folder, and where the drawing of each goes."""
    from la_tf.data.folder import EXTENSIONS, not_read

    files = sorted(f for f in folder.iterdir() if not f.is_dir() and not f.name.startswith("."))
    paths = [path for path in files if path.suffix.lower() in EXTENSIONS]
    extensions = collections.Counter(path.suffix.lower() for path in files)
    if left_out := not_read(str(folder), extensions):
        print(left_out)
    if not paths:
        command_line.fail(f"{folder} holds no picture ({' '.join(EXTENSIONS)} were looked for).")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        command_line.fail(f"{output} cannot be made: {error.strerror}.")
    return {path: output / f"{path.name}.png" for path in paths}


def _show_objects(detect, path: pathlib.Path, output: pathlib.Path) -> None:
    """One picture; raises a ValueError with a sentence where it cannot be used."""
    from detection.drawing import draw_boxes
    from detection.export import detect_above
    from detection.photographs import open_upright
    from la_tf.data.voc import VOC_CLASSES

    picture, encoded = open_upright(path, _MAX_MEGAPIXELS.value)
    try:
        boxes, classes, scores = detect_above(detect, encoded, _MIN_SCORE.value)
        drawing = draw_boxes(picture, boxes, classes, scores)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be used: {error}.") from error
    try:
        drawing.save(output)
    except (OSError, ValueError) as error:
        raise ValueError(f"{output} cannot be written: {error}.") from error
    for box, label, score in zip(boxes, classes, scores, strict=True):
        place = ", ".join(f"{side:.0f}" for side in box)
        print(f"{score:.2f}  {VOC_CLASSES[label - 1]:12}  {place}")
    objects = "1 object" if len(boxes) == 1 else f"{len(boxes)} objects"
    print(f"{objects} with a score of at least {_MIN_SCORE.value:g}: {output}")


if __name__ == "__main__":
    command_line.run(main, again="starts anew")
