"""The one exception for everything that a user can cause and mend."""


class UserError(Exception):
    """A condition that the user can mend; its text is shown without a traceback.

    The text names the file or parameter, what was found, what was expected and what to do.
    """
