"""The one exception for what a user got wrong: the command prints it as a single line, without a traceback."""


class UserError(Exception):
    """A mistake in a config, a path or a file, told in one line: what is wrong, where, and what to do."""


def mistake_behind(error: BaseException | None) -> UserError | None:
    """The user's mistake that caused an error; jsonargparse wraps what a class raises when it is built."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error
