"""What the command line reports in one line."""


class CommandError(ValueError):
    """Something that the user gave cannot be used: the message names it, what was expected and found."""


class DataError(CommandError):
    """Texts, labels or a vocabulary that cannot be used."""
