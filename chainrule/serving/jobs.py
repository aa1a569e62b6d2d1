"""Functions that a model's thread calls between two steps of its engine, whole or in parts. Knows no model."""

import inspect
import logging
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, cast

from chainrule.errors import ChainruleError

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Job:
    """A function, and who waits for its value. One that has `yield` gives way at each; its value is what it returns."""

    function: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)
    parts: Generator[None, None, Any] | None = None  # of a function that has begun and gave way
    left: bool = False  # nobody waits for it any more

    def advance(self) -> bool:
        """Call the function, or go on with it; whether it is done. What it raises is raised where it is waited for."""
        if self.left and self.parts is not None:
            self.parts.close()
            return True
        if self.left:
            self.future.cancel()
        if self.parts is None and not self.future.set_running_or_notify_cancel():
            return True
        try:
            if self.parts is None:
                found = self.function()
                if not inspect.isgenerator(found):
                    self.future.set_result(found)
                    return True
                self.parts = cast(Generator[None, None, Any], found)
            next(self.parts)
        except StopIteration as stop:
            self.future.set_result(stop.value)
        except Exception as error:
            if not isinstance(error, ChainruleError):
                log.exception("a function on a model's thread failed")
            self.future.set_exception(error)
        else:
            return False
        return True

    def fail(self, error: Exception) -> None:
        """Raise `error` where it is waited for, in place of what is left of the function."""
        if self.parts is not None or self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)
