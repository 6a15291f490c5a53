"""The one exception that reaches a user: a single line saying what is wrong, where, and what to do."""


class Error(ValueError):
    """Bad input or a result that cannot be used. The command line prints the message alone, without a traceback."""


class Notice(UserWarning):
    """What a user should know that stops nothing. The command line prints the message alone."""


def choose(kind: str, value: object, choices: object) -> Error:
    """The error for a value outside a registry, listing what the registry holds."""
    names = ", ".join(sorted(map(str, choices)))  # type: ignore[call-overload]
    return Error(f"unknown {kind} {value!r}; choose one of: {names}")
