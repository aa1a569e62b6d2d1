"""The command `serve`: an OpenAI-compatible server, and a page."""

from pathlib import Path
from typing import Annotated

from chainrule.arguments import Help
from chainrule.commands.options import Bos, Device, Dtype, Folder, check_at_least
from chainrule.errors import MissingPackageError


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
    bos: Bos = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Serve models over HTTP with OpenAI's API, and a page to look at them.

    Args:
        models: Runs, Hugging Face folders, GGUF files, adapters, classifiers, or names on the Hub; NAME=PATH gives one
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
    check_at_least(0, port=port)
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"serve: wanted starlette and uvicorn, got {error}; install them with pip install 'chainrule[serve]'"
        ) from None
