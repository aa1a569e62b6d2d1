"""What becomes of a text that is longer than the context. Imports nothing: options name it too."""

from typing import Literal

Longer = Literal["cut", "refuse"]  # it loses its beginning, or is an error
