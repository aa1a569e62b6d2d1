"""Tells whether a model that several machines or commands name is the same one, by its files. Knows bytes, and where an
adapter's base is."""

from chainrule.errors import ModelError
from chainrule.model.formats.adapter_files import base_directory, is_adapter, read_adapter
from chainrule.storage.fingerprint import fingerprint
from chainrule.storage.hub import model_directory


def model_fingerprint(model: str) -> str:
    """Of a model's folder or file, or of a name on the Hub; of an adapter its base's too. ModelError where the base is
    not there."""
    directory = model_directory(model)
    found = fingerprint(directory)
    if not is_adapter(directory):
        return found
    return f"{found} {fingerprint(base_directory(directory, read_adapter(directory)))}"


def check_model(model: str, expected: str) -> None:
    """ModelError where a worker finds no model of that name, or another one than that of the fingerprint `expected`."""
    if not model_directory(model).exists():
        raise ModelError(f"{model}: wanted this model on every machine, got none here; put it on a disk that all share")
    if model_fingerprint(model) != expected:
        raise ModelError(f"{model}: wanted the same model on every machine, got another one here; copy it again")
