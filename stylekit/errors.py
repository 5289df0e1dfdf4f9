"""The one family of errors that stylekit raises on purpose.

The library raises, the command line explains: every error carries one sentence that says what is wrong and,
where there is one, `hint`, the next step that mends it.
"""

from collections.abc import Sequence


class StylekitError(Exception):
    """Something the user can understand and mend.

    Args:
        message: One sentence naming the file, key or value at fault.
        hint: The next step, a sentence or a command; empty when there is none.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class UsageError(StylekitError):
    """A command or function was called in a way that cannot be carried out."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe is unreadable, has an unknown key, or a value outside its range."""


class ImageError(StylekitError):
    """A picture cannot be read or written; the message names the file."""


class AssetError(StylekitError):
    """A weight file or data set is missing, unreachable, or not what its digest says."""


class DataError(StylekitError):
    """A data set is missing, empty, or too small for what is asked of it."""


class TooFewError(DataError):
    """A data set is sound, but has too few pictures or persons to measure with."""


class GenerationError(StylekitError):
    """Cartoon pictures could not be made."""


class TrainingError(StylekitError):
    """Training cannot start or go on."""


class CheckpointError(StylekitError):
    """A checkpoint is missing, damaged, or does not belong to the recipe."""


class OtherRunError(CheckpointError):
    """A run cannot go on because the recipe, the data or a frozen network is another than it was trained with."""


class ExportError(StylekitError):
    """An exported network is missing, damaged, or differs from the trained one."""


class MissingPartError(StylekitError):
    """An optional part of stylekit is not installed; the hint is its install command.

    Args:
        package: The package that is missing, or several.
        extra: The extra of stylekit that brings them.
        purpose: What needs them, as the beginning of a sentence.
    """

    def __init__(self, package: str | Sequence[str], extra: str, purpose: str) -> None:
        names = (package,) if isinstance(package, str) else tuple(package)
        message = f"{purpose} needs the package {names[0]}, which is not installed."
        if len(names) > 1:
            message = f"{purpose} needs the packages {', '.join(names)}, which are not installed."
        super().__init__(message, f"Run: pip install 'stylekit[{extra}]'")


class Interrupted(StylekitError):  # noqa: N818 - named for what happened, like KeyboardInterrupt
    """The user stopped long work; everything done so far is saved and `hint` says how to go on."""

    exit_code = 130
