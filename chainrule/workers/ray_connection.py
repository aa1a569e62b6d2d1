"""Connects to a Ray cluster by its address; refuses one that does not answer, or wants a token. Knows no work."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

from chainrule.errors import MissingPackageError, OptionError
from chainrule.workers.ray_cluster import Cluster

ANSWER_SECONDS = 10.0  # for an address to answer
_MODE = "RAY_AUTH_MODE"
_NO_ANSWER = (4, 14)  # gRPC's codes of a deadline that passed, and of what cannot be reached
_NO_CLUSTER = "00" * 28  # a number that no cluster has
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # and empty settings


@contextmanager
def cluster(address: str) -> Iterator["Cluster"]:
    """The cluster at HOST:PORT, or for "auto" the one of RAY_ADDRESS or that this machine belongs to.

    Raises MissingPackageError without Ray, and OptionError where no Ray answers within ANSWER_SECONDS or one wants
    another token.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingPackageError(
            f"--cluster: wanted Ray, got {error}; install it with pip install 'chainrule[ray]'"
        ) from None
    if ray.is_initialized():  # by the caller
        yield Cluster(ray)
        return
    asked = _require_answer(address)
    with _environment_put_back():
        _require_token(address, asked)
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError, SystemExit) as error:  # Ray exits where nothing answers
            why = " ".join(str(error).split()) if isinstance(error, Exception) else "no answer"
            raise _silent(address, why) from None
        try:
            yield Cluster(ray)
        finally:
            ray.shutdown()


@contextmanager
def _environment_put_back() -> Iterator[None]:
    """Within, Ray's mode of tokens may be set, by which it knows a cluster's; afterwards it is what it was."""
    before = os.environ.get(_MODE)
    try:
        yield
    finally:
        if os.environ.get(_MODE) != before:
            if before is None:
                del os.environ[_MODE]
            else:
                os.environ[_MODE] = before
            with suppress(ImportError, AttributeError):  # Ray had no tokens before
                import_module("ray._raylet").Config.initialize("")  # which keeps what it has read


def _silent(address: str, why: str) -> OptionError:
    return OptionError(
        f"--cluster {address}: wanted the address of a Ray cluster that this machine belongs to, got {why}; start one"
        " with ray start --head, or see ray status"
    )


def _require_answer(address: str) -> str:
    """The HOST:PORT that is asked. OptionError where nothing that could be Ray answers there: Ray itself would try for
    minutes, then end the process.

    Its head is a gRPC server: it answers the beginning of HTTP/2 with a frame of settings (RFC 9113, 3.4).
    """
    asked = (os.environ.get("RAY_ADDRESS") or address) if address == "auto" else address  # as Ray chooses
    if asked == "auto":
        from ray._private import services

        try:
            asked = services.get_ray_address_from_environment("auto", None)
        except ConnectionError:
            raise _silent(address, "none that runs here") from None
    host, colon, port = asked.rpartition(":")
    if not colon or not port.isdigit() or "/" in asked or not 0 < int(port) < 2**16:
        raise OptionError(
            f"--cluster: wanted auto or HOST:PORT (the port of ray start --head, 6379), got {asked}; from a machine"
            " outside of the cluster, give the command to ray job submit"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS) as connection:
            connection.settimeout(ANSWER_SECONDS)
            connection.sendall(_PREFACE)
            head = b""
            while len(head) < 4 and (more := connection.recv(9)):
                head += more
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else str(error.strerror or error)
        raise _silent(address, why.lower()) from None
    if head[3:4] != b"\x04":
        raise _silent(address, "something else there")
    return asked


def _require_token(address: str, asked: str) -> None:
    """OptionError where the cluster wants a token that this process does not have, or does not answer: Ray itself would
    ask for 20 s or minutes, and print each time."""
    try:
        raylet: Any = import_module("ray._raylet")
        from ray._private.authentication import authentication_token_setup as tokens
    except ImportError:  # Ray had no tokens before
        return

    def refused() -> bool:
        """Whether the cluster does not take what this process shows it."""
        try:
            tokens.ensure_token_if_auth_enabled(create_token_if_missing=False)
            raylet.GcsClient(address=asked, cluster_id=_NO_CLUSTER).check_alive([], timeout=ANSWER_SECONDS)
        except Exception as error:  # also that this is another cluster: the token was right
            if getattr(error, "rpc_code", None) in _NO_ANSWER:
                raise _silent(address, "no answer") from None
            return "InvalidAuthToken" in str(error) or "no authentication token was found" in str(error)
        return False

    local = address == "auto" and "RAY_ADDRESS" not in os.environ and _MODE not in os.environ
    if not refused():
        if local:  # Ray would show such a cluster a token that is there, and its workers would not start
            os.environ[_MODE] = "disabled"
        return
    if local:  # Ray takes the token that is there, for a cluster of this machine and no other
        logging.getLogger("ray").setLevel(logging.ERROR)
        if tokens.maybe_enable_token_auth_if_token_available() and not refused():
            return
    got = "none or another one" if os.environ.get(_MODE, "").lower() == "token" else "none"
    raise OptionError(
        f"--cluster {address}: wanted the token of this cluster, got {got}; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN"
        " to what ray get-auth-token prints on its first machine"
    )
