"""The fields of a request's JSON object, checked by its form, and read with the types that Python has for them."""

from collections.abc import Mapping
from typing import Any, TypeVar

from chainrule.serving.kinds import Form, wrong
from chainrule.serving.requests import RequestError

T = TypeVar("T")


class Fields:
    """The fields of a JSON object. RequestError for one that the form does not have, and for one of another kind.

    null is a field that was not given. Each is read by the method for its kind.
    """

    def __init__(self, values: Mapping[str, Any], form: Form, inside: str = "") -> None:
        form.check(values, inside)
        self._form, self._inside = form, f"{inside}." if inside else ""
        self._values = {name: value for name, value in values.items() if value is not None}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def raw(self, name: str) -> Any:
        """The value as JSON has it; None for one that was not given."""
        assert name in self._form.fields, "a field of the form"
        return self._values.get(name)

    def error(self, name: str, wanted: str) -> RequestError:
        """The error for a field with a value that is not what is wanted."""
        return wrong(self._inside + name, wanted, self.raw(name))

    def text(self, name: str, default: T = None) -> str | T:  # type: ignore[assignment]
        """A string."""
        value: str | None = self.raw(name)
        return default if value is None else value

    def required_text(self, name: str) -> str:
        """A string that the form requires."""
        return str(self.raw(name))

    def flag(self, name: str, default: bool = False) -> bool:
        """true or false."""
        value: bool | None = self.raw(name)
        return default if value is None else value

    def integer(self, name: str, default: T = None) -> int | T:  # type: ignore[assignment]
        """A whole number."""
        value: int | None = self.raw(name)
        return default if value is None else value

    def number(self, name: str, default: T = None) -> float | T:  # type: ignore[assignment]
        """A number."""
        value = self.raw(name)
        return default if value is None else float(value)

    def whole_numbers(self, name: str) -> list[int]:
        """A list of whole numbers; none where it was not given."""
        return list(self.raw(name) or [])

    def texts(self, name: str) -> list[str]:
        """A string, or a list of strings; none where it was not given."""
        value = self.raw(name)
        return [value] if isinstance(value, str) else list(value or [])

    def texts_by_name(self, name: str) -> dict[str, str]:
        """An object of strings; none where it was not given."""
        return dict(self.raw(name) or {})

    def fields(self, name: str) -> "Fields":
        """An object's fields; none where it was not given."""
        form = self._form.fields[name]
        assert isinstance(form, Form)
        return Fields(self.raw(name) or {}, form, self._inside + name)
