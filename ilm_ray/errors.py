"""The one exception a person is meant to read."""


class UserError(Exception):
    """Bad input or configuration: one line that says what, where, and what to do. A job exits with code 2."""
