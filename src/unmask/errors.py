"""The one exception type for mistakes that a person can correct."""


class UserError(ValueError):
    """Bad input from outside: a path, an option, a value, a file.

    The message says what was given, what is needed and what to do. The command line prints it without a
    traceback and exits with code 2.
    """
