"""Files elsewhere, by their URLs (s3://, gs://, hf://, https://, memory://): opened as streams, listed, written. fsspec
does it, with a library for each scheme. Knows URLs and bytes, not contents.
"""

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

from chainrule.errors import DataError, MissingPackageError
from chainrule.storage.files import atomic_write, check_file

_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_HTTP = ("http://", "https://")
_GOOGLE = ("gs://", "gcs://")
_BUCKETS = ("s3://", "s3a://", *_GOOGLE)
_REACH_SECONDS = 10.0
_USER = re.compile(r"\b((?:https?|s?ftp|ssh|smb)://)[^/@\s]*@")
_QUERY = re.compile(r"(https?://[^\s?#'\"]*)[?#][^\s'\")]*")
# What else than an OSError a scheme's library raises for a server's answer, or for none.
_LIBRARIES = (
    *("aiobotocore", "aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google", "httpx", "httpcore"),
    *("httpx2", "httpcore2", "huggingface_hub", "requests", "s3fs", "urllib3"),
)
_VERSIONS = ("ETag", "etag", "generation", "LastModified", "last_modified", "mtime", "updated", "modified", "blob_id")


def is_remote(name: str) -> bool:
    """Whether it is a URL, not a path."""
    return _URL.match(name) is not None


def without_secrets(name: str) -> str:
    """A file's name for messages and records: a URL without user and password, and of a web server's without what
    follows ? or #, which may hold a signature. It ends in the file's name. A path stays as it is."""
    name = _USER.sub(r"\1", name)
    return re.split(r"[?#]", name, maxsplit=1)[0] if name.startswith(_HTTP) else name


@contextmanager
def answering(url: str, to: Literal["read", "write"] = "read") -> Iterator[None]:
    """Within, fsspec is asked about `url`. Raises MissingPackageError for a scheme whose library is not installed, and
    DataError for what is not there, not allowed or not reached."""
    shown = without_secrets(url)
    try:
        yield
    except ImportError as error:
        scheme = url.partition(":")[0]
        raise MissingPackageError(
            f"{shown}: wanted the library for {scheme}://, got {error}; install it with pip install 'chainrule[remote]'"
        ) from None
    except FileNotFoundError as error:
        answer = error.__cause__  # fsspec says so too where a web server refuses, or does not answer
        if isinstance(answer, Exception) and _is_of_a_library(answer) and getattr(answer, "status", None) != 404:
            raise _unreachable(shown, answer, to) from None
        raise DataError(f"{shown}: no such file there: check the name") from None
    except PermissionError as error:
        raise DataError(
            f"{shown}: wanted permission to {to} it, got {_first_line(error)}; set the credentials for"
            f" {url.partition(':')[0]}://"
        ) from None
    except (DataError, MissingPackageError):
        raise
    except Exception as error:
        told = "Protocol not known" in str(error) or "range requests" in str(error)  # ValueErrors of fsspec
        if not _is_of_a_library(error) and not isinstance(error, OSError) and not told:
            raise
        raise _unreachable(shown, error, to) from None


def _is_of_a_library(error: Exception) -> bool:
    return isinstance(error, TimeoutError) or type(error).__module__.split(".")[0] in _LIBRARIES


def _unreachable(shown: str, error: Exception, to: Literal["read", "write"]) -> DataError:
    cannot = "cannot be read" if to == "read" else "cannot be written"
    return DataError(f"{shown}: {cannot} ({_first_line(error)}): check the address, the network and the credentials")


def _first_line(error: Exception) -> str:
    """What a library says, without the secrets of a URL in it."""
    message = _QUERY.sub(r"\1", _USER.sub(r"\1", str(error)))
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _at(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it."""
    import fsspec

    if url.startswith(_GOOGLE):
        scheme = url.partition(":")[0]
        fsspec.get_filesystem_class(scheme)  # that its library is there
        if not getproxies() and not fsspec.config.conf.get(scheme):  # else it may be reached by another way
            _reach_google(os.environ.get("STORAGE_EMULATOR_HOST", ""))
    options: dict[str, Any] = {}
    if url.startswith(_HTTP):
        from aiohttp import ClientTimeout

        # Its own limit is 5 minutes for a whole file.
        options = {"client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=30, sock_read=60)}}
    found: tuple[Any, str] = fsspec.core.url_to_fs(url, **options)
    return found


@cache  # of what was reached
def _reach_google(emulator: str) -> None:
    """OSError where Google's storage, or the emulator that gcsfs takes in its place, is not reached within seconds:
    gcsfs itself would look for credentials and try again for a minute and a half."""
    named = emulator if "://" in emulator else f"http://{emulator}"
    server = urlsplit("https://storage.googleapis.com" if emulator in ("", "default") else named)
    host, port = server.hostname or "", server.port or (443 if server.scheme == "https" else 80)
    try:
        socket.create_connection((host, port), _REACH_SECONDS).close()
    except OSError as error:
        raise OSError(f"{host}:{port}: {error.strerror or error}") from None


@contextmanager
def opened_remote(url: str, *, seekable: bool = False) -> Iterator[BinaryIO]:
    """A file as a stream, of which a few megabytes are in memory; `seekable`, where it is not read from its beginning
    to its end. Errors, then or later, as in `answering`."""
    with answering(url):
        system, path = _at(url)
        # Many web servers cannot send a part of a file: without block_size it would be asked for in parts.
        streamed = {"block_size": 0} if url.startswith(_HTTP) and not seekable else {}
        with system.open(path, "rb", **streamed) as file:
            yield file


def remote_state(url: str) -> dict[str, Any]:
    """A file's size in bytes, 0 where the server does not say it, and its version there; if neither changes, the
    content did not."""
    with answering(url):
        system, path = _at(url)
        about = system.info(path)
    version = next((str(about[key]) for key in _VERSIONS if about.get(key)), "")
    return {"bytes": int(about.get("size") or 0), "modified": version}


def remote_files(url: str) -> list[str]:
    """The files that a URL names: itself, those that its pattern (*, ?, [) matches, or all in a folder, sorted.

    A web server's URL is one file. Errors as in `answering`.
    """
    if url.startswith(_HTTP):
        remote_state(url)  # that it is there
        return [url]
    with answering(url):
        system, path = _at(url)
        if re.search(r"[*?\[]", path):
            found = [name for name in sorted(system.glob(path)) if system.isfile(name)]
        elif system.isdir(path):
            found = sorted(system.find(path))
        else:
            system.info(path)
            return [url]
        return [str(system.unstrip_protocol(name)) for name in found]


def check_output(out: str | Path) -> None:
    """Refuse, before anything is computed, an output that `written_output` cannot write: FolderError for a path as in
    `atomic_write`, DataError for a web server and a bucket that is not there, MissingPackageError for a scheme whose
    library is not installed."""
    url = str(out)
    if not is_remote(url):
        check_file(Path(out))
    elif url.startswith(_HTTP):
        raise DataError(f"--out {without_secrets(url)}: wanted a bucket or a path, got a web server; choose another")
    else:
        with answering(url, "write"):
            system, path = _at(url)
            if url.startswith(_BUCKETS):
                bucket = path.partition("/")[0]
                try:
                    with suppress(PermissionError):  # to look; to write may be allowed
                        system.info(bucket)
                except FileNotFoundError:
                    raise DataError(
                        f"--out {url}: wanted a bucket that is there, got {bucket}; make it first"
                    ) from None


@contextmanager
def written_output(out: str | Path) -> Iterator[Path]:
    """`atomic_write` for a path; for a URL a temporary file here, which is sent there when the block succeeds. Errors,
    before the block too, as in `check_output`."""
    check_output(out)
    if not is_remote(str(out)):
        with atomic_write(Path(out)) as beside:
            yield beside
        return
    url = str(out)
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / "out"
        yield temporary
        with answering(url, "write"):
            system, path = _at(url)
            with temporary.open("rb") as source, system.open(path, "wb") as target:
                shutil.copyfileobj(source, target)
