"""Errors that a person can put right, and what other libraries' errors say."""

import re

# The names that TensorFlow gives to an operation and to its place in a graph.
_OPERATION = re.compile(r"\{\{.*?\}\}|\[Op:.*?\]( name:.*)?")


def first_line(error: BaseException) -> str:
    """The message of a foreign exception without names of operations and its last full stop.

    Of an exception that says nothing, its type.
    """
    line = next(iter(str(error).splitlines()), "")
    return _OPERATION.sub("", line).strip().rstrip(".") or type(error).__name__


class UserError(Exception):
    """What a person can put right; the message says what was found and what to do."""


class RunError(UserError, RuntimeError):
    """A run directory that cannot be used; the message says why and what to do."""
