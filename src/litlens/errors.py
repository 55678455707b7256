"""The one exception for what a user got wrong: the command prints it as a single line, without a traceback."""


class UserError(Exception):
    """A mistake in a config, a path or a file, told in one line: what is wrong, where, and what to do."""
