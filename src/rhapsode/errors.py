"""Every error a person can meet, under one root.

A message is one plain sentence: `<config.path> must <rule>; got <value>. <what to do>`.
The command line prints it on standard error and exits with `exit_code`.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class RhapsodeError(Exception):
    """Root of all errors that are reported to the user in one sentence."""

    exit_code = 1


class UserError(RhapsodeError, ValueError):
    """What was asked for is wrong: a bad value, an unknown name, a missing file."""

    exit_code = 2


class StateError(RhapsodeError, RuntimeError):
    """What was asked for is fine, but the world is not: a damaged file, a locked run, a full disk."""

    exit_code = 1


def unknown_name(what: str, name: str, known: Iterable[str]) -> UserError:
    """Build the error for a name that does not exist: the nearest match first, then the list.

    >>> print(unknown_name("recipe", "gtp", ["gpt", "rhapsode"]))
    recipe must be one of gpt, rhapsode; got 'gtp'. Did you mean 'gpt'?
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"Did you mean '{near[0]}'?" if near else "Choose one of these."
    return UserError(f"{what} must be one of {', '.join(names)}; got '{name}'. {hint}")
