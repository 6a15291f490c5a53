"""The one exception that reaches a user: a single line saying what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager


class Error(ValueError):
    """Bad input or a result that cannot be used. The command line prints the message alone, without a traceback."""


class Missing(Error, ImportError):
    """A package that installing s4s does not bring; the message names the extra that does."""


class Notice(UserWarning):
    """What a user should know that stops nothing. The command line prints the message alone."""


def choose(kind: str, value: object, choices: object) -> Error:
    """The error for a value outside a registry, listing what the registry holds."""
    names = ", ".join(sorted(map(str, choices)))  # type: ignore[call-overload]
    return Error(f"unknown {kind} {value!r}; " + (f"choose one of: {names}" if names else "there is none to choose"))


def require_choice(kind: str, value: object, choices: Collection[object]) -> None:
    """Raise ``choose``'s error for a value that a registry does not hold, one that could not be a name among them."""
    try:
        held = value in choices
    except TypeError:  # such as a list
        held = False
    if not held:
        raise choose(kind, value, choices)


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Goes around imports of packages that an extra of ours brings: what fails there is ``Missing``, in one line."""
    try:
        yield
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name
        raise missing(f"{error.name} is not installed" if absent else str(error), name) from error


def missing(what: str, name: str) -> Missing:
    """The error that says what is missing, and the extra that brings it."""
    return Missing(f"{' '.join(what.split())}; pip install 's4s[{name}]'")
