"""Keras callbacks of the user's own, from --callbacks=module:function."""

import functools
import importlib
import pathlib
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorflow as tf

from la_tf.config import Config, ConfigError
from la_tf.errors import RunError, first_line
from la_tf.runs.log import Record

# (Config, run directory) -> a callback or several.
Factory = Callable[[Config, pathlib.Path], Any]


def load_factories(given: str | None) -> dict[str, Factory]:
    """The functions that `--callbacks` names, under those names.

    Args:
      given: `module:function`, several with commas between them; None for none.

    Raises:
      ConfigError: a module cannot be imported, or has no such function.
    """
    found = {}
    for name in given.split(",") if given else ():
        module, _, function = name.partition(":")
        if not (module and function):
            raise ConfigError(f"--callbacks={name} must be of the form module:function.")
        try:
            found[name] = getattr(importlib.import_module(module), function, None)
        except Exception as error:  # of whatever the module does
            raise ConfigError(
                f"--callbacks={name}: {module} cannot be imported ({first_line(error)}). Start in "
                "the folder that holds it, or set PYTHONPATH."
            ) from error
        if not callable(found[name]):
            raise ConfigError(f"--callbacks={name}: {module} has no function {function}.")
    return found


def make_callbacks(config: Config, run_dir: pathlib.Path) -> list[tf.keras.callbacks.Callback]:
    """What the functions of `--callbacks` return for a run.

    Raises:
      ConfigError: as `load_factories`; or one fails, or returns something else.
    """
    callbacks = []
    for name, factory in load_factories(config.run.callbacks).items():
        try:
            made = factory(config, run_dir)
        except Exception as error:
            raise ConfigError(f"--callbacks={name} failed: {_in_words(error)}.") from error
        several = list(made) if isinstance(made, Iterable) else [made]
        for callback in several:
            if not isinstance(callback, tf.keras.callbacks.Callback):
                raise ConfigError(
                    f"--callbacks={name} must return a Keras callback or a list of them, and "
                    f"returned {callback!r}."
                )
        callbacks += several
    return callbacks


class OwnCallbacks(tf.keras.callbacks.Callback):
    """Hands everything on to the user's callbacks, whose failure costs no step of the run.

    A callback that has a method `on_record` is also called with each record of metrics.jsonl, a
    dict with `kind`, `step` and `epoch`: losses, kNN, clusterings. One that has a method `close` is
    called at the end, after a stop and a failure too, when no exit handler may get to run. After a
    failure none is called again, and `leave` is asked to save and to stop.
    """

    _supports_tf_logs = True  # the list converts them for callbacks that want numbers

    def __init__(
        self,
        callbacks: Sequence[tf.keras.callbacks.Callback],
        leave: Callable[[Callable[[int], Exception]], None],
    ):
        """`leave` takes a function: step that was saved -> the exception to stop with."""
        super().__init__()
        self._list = tf.keras.callbacks.CallbackList(callbacks)
        self._listeners = [c.on_record for c in callbacks if hasattr(c, "on_record")]
        self._closers = [c.close for c in callbacks if hasattr(c, "close")]
        self._leave = leave
        self._failed = False

    def on_record(self, record: Record) -> None:
        """Takes a record of metrics.jsonl."""
        for listener in self._listeners:
            self._call(listener, dict(record))

    def close(self) -> None:
        """Ends them, however the run has ended.

        Raises:
          RunError: one fails.
        """
        for closer in self._closers:
            try:
                closer()
            except Exception as error:
                raise RunError(
                    f"a callback of --callbacks failed in close: {_in_words(error)}."
                ) from error

    def set_params(self, params: dict[str, Any]) -> None:
        """What `fit` says of itself."""
        self._call(self._list.set_params, params)

    def set_model(self, model: tf.keras.Model) -> None:
        """The `BankedModel`; its `network` is the one that is trained."""
        self._call(self._list.set_model, model)

    def on_train_begin(self, logs=None):
        """Hands it on; a run that was resumed within an epoch has two of these."""
        self._call(self._list.on_train_begin, logs)

    def on_train_end(self, logs=None):
        """Hands it on."""
        self._call(self._list.on_train_end, logs)

    def on_epoch_begin(self, epoch, logs=None):
        """Hands it on."""
        self._call(self._list.on_epoch_begin, epoch, logs)

    def on_epoch_end(self, epoch, logs=None):
        """Hands it on."""
        self._call(self._list.on_epoch_end, epoch, logs)

    def on_train_batch_begin(self, batch, logs=None):
        """Hands it on."""
        self._call(self._list.on_train_batch_begin, batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        """Hands it on."""
        self._call(self._list.on_train_batch_end, batch, logs)

    def _call(self, method: Callable, *arguments: Any) -> None:
        if self._failed:
            return
        try:
            method(*arguments)
        except Exception as error:
            self._failed = True
            self._leave(functools.partial(_stopped_by, error))


def _stopped_by(error: Exception, step: int) -> RunError:
    return RunError(
        f"a callback of --callbacks failed: {_in_words(error)}. The run is saved after step "
        f"{step}: the same command goes on from there, with the callback mended or without it."
    )


def _in_words(error: Exception) -> str:
    """What was raised, and where."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{pathlib.Path(place.filename).name}, line {place.lineno}"
    return f"{type(error).__name__}, {first_line(error)} ({where})"
