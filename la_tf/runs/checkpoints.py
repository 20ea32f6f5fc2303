"""Which of the checkpoints that TensorFlow knows of a folder are still there."""

import pathlib

import tensorflow as tf

from la_tf.errors import RunError


def present_checkpoints(folder: str | pathlib.Path) -> list[str]:
    """Paths of the checkpoints in a folder, the newest last.

    Those whose files were removed do not count: that is how one goes back to an older one.

    Raises:
      RunError: there were some, and all are gone.
    """
    state = tf.train.get_checkpoint_state(str(folder))
    known = state.all_model_checkpoint_paths if state else []
    present = [path for path in known if pathlib.Path(path + ".index").exists()]
    if known and not present:
        raise RunError(
            f"the checkpoints of {folder} are gone: restore one, or start anew elsewhere."
        )
    return present
