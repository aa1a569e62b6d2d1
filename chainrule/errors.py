"""What a user did wrong, each kind a class. Every other exception is a bug, and is shown with its traceback.

A message is one line: what was wanted, what came, what to do.
"""


class ChainruleError(ValueError):
    """A mistake that the user can correct. The command line prints its message as one line, and exits with 2."""


class OptionError(ChainruleError):
    """An option or an argument is out of range, unknown, or at odds with another."""


class NotEnoughMemoryError(OptionError):
    """What is asked for needs more memory than is free; raised before it is begun."""


class DataError(ChainruleError):
    """A file of texts, rows or tokens, or a task, cannot be read or used."""


class ModelError(ChainruleError):
    """A model, its tokenizer or its chat template is missing, damaged, or cannot do what is asked."""


class WorkerKilledError(ChainruleError):
    """Processes or machines that did the work were killed: what is finished is kept, and the same command goes on."""


class FolderError(ChainruleError):
    """An output folder holds something else, or what another command line began."""


class MissingPackageError(ChainruleError):
    """A package that one extra of chainrule installs is missing."""
