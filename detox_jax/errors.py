"""The one exception that means "the user can mend this"."""


class UserError(ValueError):
    """A mistake in a file, a flag or a setting; `cli` prints it as one line and exits with 2.

    The message names the file, line or flag at fault and says what to do.
    """
