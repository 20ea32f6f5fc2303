"""The checkpoints of a folder, told by their own files."""

import os
import pathlib
import re
import uuid

from la_tf.errors import RunError
from la_tf.files import pattern_in, replace_file

# What TensorFlow writes for a checkpoint of step 12: ckpt-12.data-00000-of-00001, or several such,
# and then ckpt-12.index.
_INDEX = re.compile(r"ckpt-(\d+)\.index")
_DATA = re.compile(r"\.data-\d+-of-(\d+)")
_LIST = "checkpoint"  # TensorFlow's list of a folder's checkpoints, text in the form of a protobuf


def present_checkpoints(folder: str | pathlib.Path) -> list[str]:
    """Paths of the checkpoints in a folder that have all of their files, the newest last.

    TensorFlow goes by a list in a small file beside them. That one may be damaged where they are
    whole, and may name some whose files were removed to go back to an older one.

    Raises:
      RunError: there were some, and all are gone; or TensorFlow could not find any there.
    """
    folder = pathlib.Path(folder)
    if character := pattern_in(folder):
        raise RunError(
            f"{folder} has a {character} in its path, which TensorFlow takes for a pattern of "
            "names: name another directory."
        )
    steps = sorted(int(m[1]) for f in folder.glob("*") if (m := _INDEX.fullmatch(f.name)))
    paths = [folder / f"ckpt-{step}" for step in steps]
    present = [str(path) for path in paths if _has_data(path)]
    if not present and _listed(folder / _LIST):
        raise RunError(
            f"the checkpoints of {folder} are gone: restore one, or start anew elsewhere."
        )
    return present


def _has_data(checkpoint: pathlib.Path) -> bool:
    """Whether as many data files are there as their names say."""
    parts = checkpoint.parent.glob(f"{checkpoint.name}.data-*")
    counts = [int(m[1]) for f in parts if (m := _DATA.fullmatch(f.name, len(checkpoint.name)))]
    return bool(counts) and len(counts) == counts[0]


def mend_list(folder: pathlib.Path) -> str | None:
    """Makes TensorFlow's list of a folder's checkpoints name those that are there.

    Call it before TensorFlow reads the list. After a kill it may name one more or one less.

    Returns:
      A sentence if the list could not be read; what it was is kept beside the new one.
    """
    file = folder / _LIST
    names = [pathlib.Path(path).name for path in present_checkpoints(folder)]
    if not names:
        return None
    fields = [("model_checkpoint_path", names[-1])]
    fields += [("all_model_checkpoint_paths", name) for name in names]
    listed = _listed(file)
    if listed == fields:
        return None
    lines = [f'{field}: "{name}"' for field, name in fields]
    # Without times TensorFlow would take them for those that are to be kept for ever.
    times = [(folder / f"{name}.index").stat().st_mtime for name in names]
    lines += [f"all_model_checkpoint_timestamps: {time!r}" for time in times]
    content = ("\n".join(lines) + "\n").encode()
    if listed:
        replace_file(file, content)
        return None
    kept = file.with_name(f"{_LIST}.damaged-{uuid.uuid4().hex[:8]}")
    if os.path.lexists(file):
        os.replace(file, kept)
    replace_file(file, content)
    if not os.path.lexists(kept):
        return f"{file} is gone: it was written anew from the {len(names)} checkpoints beside it."
    return (
        f"{file} is damaged: it was written anew from the {len(names)} checkpoints beside it, and "
        f"is kept as {kept.name}."
    )


def _listed(file: pathlib.Path) -> list[tuple[str, str]]:
    """(field, name of a checkpoint) of each line of a list; empty if it is none."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    pairs = re.findall(r'^(\w*model_checkpoint_paths?): "(.*)"$', text, re.MULTILINE)
    return [(field, path.rpartition("/")[2]) for field, path in pairs]
