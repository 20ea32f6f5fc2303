"""Stored files, checked where they are read: each has one form, and what does not fit it is told.

A form is a type, as in annotations: a `TypedDict`, a dataclass, list, dict, a union, str, bool,
int, float or `Any`. Numbers are finite and fit into 64 bits; `Annotated[int, range(...)]` bounds
them.
"""

import dataclasses
import io
import json
import math
import os
import pathlib
import types
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np

from la_tf.files import open_regular, replace_file

_WORDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
_WORDS |= {list: "a list", dict: "an object", type(None): "null"}


class StoredFileError(ValueError):
    """Why a stored file cannot be used, to be told with its name and what to do."""


def read_json(path: os.PathLike | str, form: Any) -> Any:
    """What a JSON file holds.

    Raises:
      StoredFileError: it cannot be read, or does not have this form.
    """
    try:
        with open_regular(path) as file:
            return parse_json(file.read(), form)
    except (OSError, MemoryError) as error:
        raise StoredFileError(getattr(error, "strerror", None) or "it is too large") from error


def parse_json(text: bytes | str, form: Any) -> Any:
    """What a JSON text holds.

    Raises:
      StoredFileError: it is no JSON, or does not have this form.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise StoredFileError("it is nested too deeply") from error
    except ValueError as error:  # no UTF-8, or no JSON
        raise StoredFileError(f"it is no JSON: {error}") from error
    if found := misfit(value, form):
        raise StoredFileError(found)
    return value


def read_arrays(path: os.PathLike | str, names: typing.Iterable[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, of which there must be these names.

    Raises:
      StoredFileError: it cannot be read, or one is missing.
    """
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except OSError as error:
        raise StoredFileError(error.strerror or str(error)) from error
    except Exception as error:  # a damaged archive breaks its readers in many ways
        raise StoredFileError("it is no whole archive of arrays") from error
    if missing := [name for name in names if name not in found]:
        raise StoredFileError(f"it lacks {missing[0]}")
    return found


def write_arrays(path: pathlib.Path, arrays: Mapping[str, Any]) -> None:
    """Replaces an .npz file in one step.

    Raises:
      OSError: it cannot be written.
    """
    file = io.BytesIO()  # zipfile, on a full disk, leaves files that cannot be closed
    np.savez(file, **arrays)
    replace_file(path, file.getbuffer())


def misfit(value: Any, form: Any, name: str = "it") -> str | None:
    """In words, the first place where a value does not have a form; None where it has."""
    if form is Any:
        return None
    kind, arguments = typing.get_origin(form) or form, typing.get_args(form)
    if kind is typing.Annotated:
        bounds = arguments[1]
        found = misfit(value, arguments[0], name)
        return found or (None if value in bounds else f"{name} is {value}, out of its range")
    if kind in (typing.NotRequired, typing.Required):
        return misfit(value, arguments[0], name)
    if kind in (typing.Union, types.UnionType):
        found = [misfit(value, argument, name) for argument in arguments]
        # Of 'object or null' an object is told about in detail.
        return None if None in found else max(found, key=lambda words: words.startswith(name + "."))
    inner = "" if name == "it" else f"{name}."
    if typing.is_typeddict(kind) or dataclasses.is_dataclass(kind):
        return _object_misfit(value, kind, name, inner)
    if not _is(value, kind):
        return f"{name} is {_shown(value)}, not {_WORDS[kind]}"
    items = ()
    if arguments and kind is list:
        items = ((item, arguments[0], f"{inner}{i}") for i, item in enumerate(value))
    elif arguments and kind is dict:
        items = ((item, arguments[1], f"{inner}{key}") for key, item in value.items())
    return next((found for item in items if (found := misfit(*item))), None)


def _object_misfit(value: Any, kind: type, name: str, inner: str) -> str | None:
    if not isinstance(value, Mapping):
        return f"{name} is {_shown(value)}, not {_WORDS[dict]}"
    forms = typing.get_type_hints(kind, include_extras=True)
    required = getattr(kind, "__required_keys__", forms)
    for key, form in forms.items():
        if key in value:
            if found := misfit(value[key], form, inner + key):
                return found
        elif key in required:
            return f"{inner}{key} is missing"
    return None


def _is(value: Any, kind: type) -> bool:
    if kind is None or kind is type(None):
        return value is None
    if kind in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
        real = kind is float and isinstance(value, float) and math.isfinite(value)
        return whole or real
    return isinstance(value, kind)


def _shown(value: Any) -> str:
    """A value in few words."""
    if isinstance(value, list | dict):
        return _WORDS[type(value)]
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
