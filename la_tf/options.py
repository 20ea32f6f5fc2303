"""The options of a configuration by their names: what may be given for each, and in what form."""

import dataclasses
import math
import operator
import os
import types
import typing
from typing import Any

from la_tf import architectures
from la_tf.config import Config

_TRUTHS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def sections_and_options() -> dict[str, tuple[str, dataclasses.Field]]:
    """Of every option, by its name: the name of its section, and its field."""
    return {
        option.name: (section.name, option)
        for section in dataclasses.fields(Config)
        for option in dataclasses.fields(section.type)
    }


def kind_of(option: dataclasses.Field) -> type:
    """The type of an option's values: int of `int | None`, tuple of `tuple[int, ...]`."""
    annotation = option.type
    if isinstance(annotation, types.UnionType):
        (annotation,) = [a for a in typing.get_args(annotation) if a is not type(None)]
    return typing.get_origin(annotation) or annotation


def option_value(option: dataclasses.Field, given: Any) -> Any:
    """What an option becomes when it is given as text, in the form of flags, or as a value.

    Args:
      option: a field of a section of `Config`.
      given: text as it is typed behind `--name=`, or a Python value.

    Returns:
      A value of the option's type, in its range.

    Raises:
      ValueError: no such value; the message, "must be ...", says which there are.
    """
    if given is None and option.default is None:
        return None
    try:
        value = _CONVERSIONS[kind_of(option)](given)
    except (TypeError, ValueError, OverflowError, KeyError):
        raise ValueError(f"must be {_in_words(option)}") from None
    require_allowed(option, value)
    return value


def require_allowed(option: dataclasses.Field, value: Any) -> None:
    """Checks a value of the option's type.

    Raises:
      ValueError: it is none of the option's choices, or out of its range; as `option_value`.
    """
    choices, within = option.metadata["choices"], option.metadata["within"]
    allowed = True
    if isinstance(value, str) and value.startswith(option.metadata["prefixes"]):
        architectures.parse(value)
    elif choices:
        allowed = value in choices
    elif within and value is not None:  # not-a-number lies in no range
        numbers = value if isinstance(value, tuple) else (value,)
        allowed = all(within[0] <= number <= within[1] for number in numbers)
    if not allowed:
        raise ValueError(f"must be {_in_words(option)}")


def _truth(given: Any) -> bool:
    return given if isinstance(given, bool) else _TRUTHS[_text(given).lower()]


def _text(given: Any) -> str:
    if not isinstance(given, str | os.PathLike):
        raise TypeError
    return os.fspath(given)


def _whole(given: Any) -> int:
    if isinstance(given, bool):
        raise TypeError
    return int(given) if isinstance(given, str) else operator.index(given)


def _real(given: Any) -> float:
    if isinstance(given, bool) or not math.isfinite(value := float(given)):
        raise ValueError
    return value


def _wholes(given: Any) -> tuple[int, ...]:
    items = given.split(",") if isinstance(given, str) else given
    return () if given == "" else tuple(map(_whole, items))


_CONVERSIONS = {bool: _truth, str: _text, int: _whole, float: _real, tuple: _wholes}


def _in_words(option: dataclasses.Field) -> str:
    kind, choices = kind_of(option), option.metadata["choices"]
    if choices:
        return f"one of {', '.join((*choices, *(f'{p}NAME' for p in option.metadata['prefixes'])))}"
    if kind in (bool, str):
        return "true or false" if kind is bool else "text"
    low, high = option.metadata["within"]
    span = f"from {low} to {high:.15g}"
    if kind is tuple:
        return f"whole numbers {span}, as in 119,142"
    return f"a {'whole ' if kind is int else ''}number {span}"
