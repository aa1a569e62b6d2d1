"""The command `serve`: an OpenAI-compatible server, and a page."""

import sys
from pathlib import Path
from typing import Annotated

from chainrule.arguments import Help
from chainrule.commands.options import Folder, Loading, check_at_least
from chainrule.errors import MissingPackageError, OptionError


def serve(
    models: Annotated[tuple[str, ...], Help("MODEL")],
    /,
    host: Annotated[str, Help("ADDRESS")] = "127.0.0.1",
    port: int = 8000,
    api_key: Annotated[str | None, Help("KEY")] = None,
    batch: int = 32,
    cache_tokens: int | None = None,
    queue: int = 1024,
    task: Annotated[tuple[Path, ...], Help("FILE")] = (),
    runs: Folder | None = None,
    open: bool = False,
    loading: Loading = Loading(),
) -> None:
    """Serve models over HTTP with OpenAI's API, and a page to look at them.

    Args:
        models: Runs, Hugging Face folders, GGUF files, adapters, classifiers, or names on the Hub; NAME=MODEL gives one
            another name than its folder's.

    Address:
        host: Address to listen on; another than this machine's own wants --api-key.
        port: Port to listen on; 0 takes a free one.
        api_key: Key that clients must send (default: none).
        open: Open the page in a browser.

    Limits:
        batch: Sequences generated together, for each model.
        cache_tokens: Tokens whose keys and values a model keeps in memory (default: what a batch needs).
        queue: Sequences that may wait; more are refused with status 429.

    More to serve:
        task: Task files (.toml), for classification by prompts.
        runs: Folder of runs and reports for the page.

    Example:
        chainrule serve runs/books --open
    """
    check_at_least(1, batch=batch, cache_tokens=cache_tokens, queue=queue)
    if not 0 <= port < 2**16:
        raise OptionError(f"--port: wanted from 0 to 65535, got {port}")
    if api_key == "":
        raise OptionError("--api-key: wanted a key of at least one character, got none; leave it out")
    try:
        from chainrule.serving.server import listen, run
    except ImportError as error:
        raise MissingPackageError(
            f"serve: wanted starlette and uvicorn, got {error}; install them with pip install 'chainrule[serve]'"
        ) from None
    from chainrule.serving.load import Limits, load_served
    from chainrule.serving.safety import is_local
    from chainrule.terminal import log

    if api_key is None and not is_local(host):
        raise OptionError(
            f"--host: wanted an address of this machine alone, got {host}, which others can reach; add --api-key"
        )
    if runs is not None and not runs.is_dir():
        raise OptionError(f"--runs: wanted a folder, got {runs}")
    socket = listen(host, port)
    limits = Limits(batch, cache_tokens, queue)
    served = load_served(models, task, runs, limits, **vars(loading), log=log)
    sys.exit(run(served, socket, host, api_key, open_page=open, log=log))
