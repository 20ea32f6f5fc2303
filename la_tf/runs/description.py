"""What config.json of a run says: its configuration, and the images it was trained on."""

import json
import pathlib
from typing import Any

from la_tf.config import Config, from_dict
from la_tf.errors import RunError


def read_description(path: pathlib.Path) -> tuple[Config, dict[str, Any]]:
    """The effective configuration of a run, and sizes and fingerprints of its images.

    Raises:
      RunError: there is no such run, or its config.json cannot be read.
    """
    file = path / "config.json"
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        stored["data"]["training set"]["examples"]  # N, which many ask for later
        return from_dict(stored["config"]), stored["data"]
    except FileNotFoundError:
        raise RunError(
            f"{path} holds no run: name a run directory that tools/train.py made."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{file} cannot be read ({type(error).__name__}: {error}): restore it."
        ) from error
