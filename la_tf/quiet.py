"""Keeps the start-up noise of the libraries underneath off the console.

Call `quiet()` before TensorFlow is imported. It hides what a user can do nothing about:
TensorFlow's notices about its build, factories registered twice, the end-of-life notice of
TensorFlow Addons, and deprecation notices that one library addresses to another. Exceptions are
not touched.
"""

import logging
import os
import warnings


def quiet() -> None:
    """Silences start-up notices; an already set TF_CPP_MIN_LOG_LEVEL is respected."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TFDS_DISABLE_PROGRESS_BAR", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"google\..*")
    warnings.filterwarnings("ignore", message=r"\s*TensorFlow Addons \(TFA\) has ended")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    logging.getLogger("absl").addFilter(_shorten)
    for name in ("tensorflow", "absl", "faiss", "faiss.loader", "h5py"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _shorten(record: logging.LogRecord) -> bool:
    """Takes the traceback from what TensorFlow says of a fingerprint.pb, and then does without."""
    if str(record.msg).startswith("Fingerprint was found"):
        record.exc_info = None
    return True
