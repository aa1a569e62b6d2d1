"""Tells whether a model that several machines or commands name is the same one, by its files. Knows bytes, and where an
adapter's base is."""

from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from chainrule.errors import ModelError
from chainrule.model.formats.adapter_files import base_directory, is_adapter, read_adapter
from chainrule.storage.fingerprint import fingerprint, name_for_workers
from chainrule.storage.hub import model_directory


def model_fingerprint(model: str) -> str:
    """Of a model's folder or file, or of a name on the Hub; of an adapter its base's too. ModelError where the base is
    not there."""
    directory = model_directory(model)
    found = fingerprint(directory)
    if not is_adapter(directory):
        return found
    return f"{found} {fingerprint(base_directory(directory, read_adapter(directory)))}"


Source = TypeVar("Source", bound=Any)  # a frozen dataclass with a `directory: str`


@dataclass(frozen=True)
class ForWorkers(Generic[Source]):
    """What is loaded on other machines, where it must be the same as here. `expected`: the model's fingerprint."""

    source: Source
    expected: str

    @classmethod
    def of(cls, source: Source) -> "ForWorkers[Source]":
        named = replace(source, directory=name_for_workers(source.directory))
        return cls(named, model_fingerprint(source.directory))

    def checked(self) -> Source:
        """The source, in a worker. ModelError where there is no model of that name, or another one."""
        model = self.source.directory
        if not model_directory(model).exists():
            raise ModelError(
                f"{model}: wanted this model on every machine, got none here; put it on a disk that all share"
            )
        if model_fingerprint(model) != self.expected:
            raise ModelError(f"{model}: wanted the same model on every machine, got another one here; copy it again")
        return self.source
