"""A model's directory or GGUF: one that is there, or of the Hugging Face Hub by its name. Knows names, no models."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from chainrule.errors import ModelError

# All that is downloaded: no pickle, and no code but the chat template, which runs in a sandbox.
SETTINGS = ("*.json", "*.txt", "*.toml", "*.jinja", "tokenizer.model")
WEIGHTS = ("model.safetensors", "model-*.safetensors", "adapter_model.safetensors")
_CLIENTS = ("httpx", "httpx2", "httpcore", "requests", "urllib3")  # the HTTP clients of huggingface_hub, by version
_Answer = TypeVar("_Answer")
_FILE = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?:(?P<file>[\w./+-]+\.gguf)")
_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")  # owner/name, owner/name@revision


def model_directory(model: str | Path, *, weights: bool = True) -> Path:
    """The directory or GGUF file `model`, where there is one; else owner/name on the Hub, or owner/name@revision, or
    one GGUF file of it, owner/name:file.gguf. Of a directory with a GGUF and no config.json, that file.

    The Hub's cache, token, endpoint and offline mode are those of `huggingface_hub` (HF_HOME, HF_HUB_OFFLINE, ...).
    Without `weights` all other files are downloaded. Raises ModelError for a name that is neither, and where the Hub
    cannot be reached and its cache lacks the model.
    """
    path, named = Path(model), _NAME.fullmatch(str(model))
    if path.is_dir():
        return _gguf_inside(path) or path
    if not path.exists() and (file := _FILE.fullmatch(str(model))):
        return _file(file["name"], file["revision"], file["file"])
    if path.exists() or named is None:
        return path
    if not path.is_absolute() and path.parent.is_dir() and path.parent != Path():
        return path  # runs/boks, where there is a folder runs: a typing error, which the Hub is not asked about
    directory = _snapshot(named["name"], named["revision"], [*SETTINGS, *(WEIGHTS if weights else ())])
    adapter = (directory / "adapter_config.json").is_file()  # the caller's error names what it is
    if weights and not adapter and not any(directory.glob("*.safetensors")):
        raise _no_safetensors(named["name"])
    return directory


def tensor_shapes(name: str, revision: str | None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of owner/name on the Hub, from the headers of its safetensors alone.

    Raises ModelError as `model_directory` does.
    """
    from huggingface_hub import errors, get_safetensors_metadata

    def ask() -> dict[str, tuple[int, ...]]:
        files = get_safetensors_metadata(name, revision=revision).files_metadata.values()
        return {tensor: tuple(stored.shape) for file in files for tensor, stored in file.tensors.items()}

    try:
        return _asked(name, revision, ask)
    except errors.NotASafetensorsRepoError:
        raise _no_safetensors(name) from None
    except errors.SafetensorsParsingError as error:
        raise ModelError(f"{name}: wanted whole safetensors, got a damaged header ({error})") from None


def _no_safetensors(name: str) -> ModelError:
    return ModelError(
        f"{name}: wanted safetensors, which the Hub's {name} has none of; a GGUF of it is named {name}:FILE.gguf; a"
        " pickle is never fetched: where you trust it, convert it with transformers' from_pretrained(…)"
        ".save_pretrained(…)"
    )


def _gguf_inside(directory: Path) -> Path | None:
    """The GGUF of a directory that has nothing else of a model. ModelError where there are several."""
    found = sorted(directory.glob("*.gguf"))
    if not found or any((directory / name).exists() for name in ("config.json", "run.toml", "adapter_config.json")):
        return None
    if len(found) > 1:
        raise ModelError(
            f"{directory}: wanted one GGUF file, got {len(found)} ({', '.join(file.name for file in found[:5])}"
            f"{', …' * (len(found) > 5)}); name one of them"
        )
    return found[0]


def _file(name: str, revision: str | None, file: str) -> Path:
    from huggingface_hub import errors, hf_hub_download

    try:
        return _asked(name, revision, lambda: Path(hf_hub_download(name, file, revision=revision)))
    except errors.EntryNotFoundError:
        raise ModelError(
            f"{name}: wanted the file {file}, which the Hub's {name} does not have; list its files"
        ) from None


def _snapshot(name: str, revision: str | None, wanted: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    return _asked(
        name,
        revision,
        lambda: Path(snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns="*/*")),
    )


def _asked(name: str, revision: str | None, ask: Callable[[], _Answer]) -> _Answer:
    """What the Hub answers, or a ModelError of one line."""
    from huggingface_hub import constants, errors

    at_revision = f" at revision {revision}" if revision else ""
    looked = f"{name}: wanted a model's directory or a name on the Hugging Face Hub; no such directory is here"
    try:
        return ask()
    except (errors.NotASafetensorsRepoError, errors.SafetensorsParsingError):
        raise
    except errors.GatedRepoError:
        raise ModelError(
            f"{name}: this model is gated: accept its terms at {constants.ENDPOINT}/{name}, then log in with"
            " `hf auth login` or set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"{looked}, and {constants.ENDPOINT} has none of that name (or a private one: `hf auth login`)"
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelError(f"{name}: wanted revision {revision}, which the Hub's {name} does not have") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else f"no connection: {error.__cause__ or error}"
        raise ModelError(
            f"{looked}, the cache {constants.HF_HUB_CACHE} has no {name}{at_revision}, and {constants.ENDPOINT} could"
            f" not be asked ({why}); correct the name, or fetch it where there is a network"
        ) from None
    except errors.EntryNotFoundError:  # one file of it, by name
        raise
    except (errors.HFValidationError, errors.HfHubHTTPError) as error:
        first = next(line for line in str(error).splitlines() if line.strip())
        raise ModelError(f"{looked}, and the Hub says: {first}") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _CLIENTS:
            raise
        raise ModelError(
            f"{looked}, and {constants.ENDPOINT} could not be asked ({error}); try again, or fetch it elsewhere"
        ) from None
