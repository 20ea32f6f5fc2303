"""A configuration as config.json holds it, and what earlier versions have stored."""

import dataclasses
from typing import Any

from la_tf.config import Config, ConfigError

# (section, option): the value with which a run that an earlier version stored is still the same.
REMOVED_OPTIONS = {("clustering", "cluster_in_background"): False}


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """The configuration as nested plain values, ready for JSON."""
    return {
        section.name: {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(getattr(config, section.name)).items()
        }
        for section in dataclasses.fields(config)
    }


def from_dict(values: dict[str, dict[str, Any]]) -> Config:
    """The inverse of `to_dict`, which also reads what earlier versions have stored.

    Raises:
      ConfigError: a section or an option that this version does not know, or an option that was
        removed and made a difference, by name.
    """
    require_without_removed(values)
    sections = {section.name: section.type for section in dataclasses.fields(Config)}
    arguments = {}
    for name, options in values.items():
        if name not in sections:
            raise ConfigError(f"unknown section '{name}' in a stored configuration.")
        known = {field.name for field in dataclasses.fields(sections[name])}
        options = {k: v for k, v in options.items() if (name, k) not in REMOVED_OPTIONS}
        if unknown := sorted(set(options) - known):
            raise ConfigError(f"unknown option '{unknown[0]}' in a stored configuration.")
        arguments[name] = sections[name](
            **{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        )
    return Config(**arguments)


def require_without_removed(values: dict[str, dict[str, Any]]) -> None:
    """Refuses a stored configuration in which an option that no longer exists was in use.

    Raises:
      ConfigError: such an option, by name.
    """
    for (section, option), unused in REMOVED_OPTIONS.items():
        value = values.get(section, {}).get(option, unused)
        if value != unused:
            raise ConfigError(
                f"a run stored with --{option}={value} needs the version that wrote it: this one "
                "no longer has that option."
            )
