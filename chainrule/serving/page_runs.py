"""Runs and reports of a folder, for the page: a run's losses while it trains, what a comparison found, its report.
Knows files, no model.
"""

import json
import math
import os
import time
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from chainrule.pretraining.curve import losses
from chainrule.serving.endpoints import Endpoint, Get
from chainrule.serving.requests import RequestError

DEEPEST = 5  # folders below the one that is shown
MOST = 500  # runs and reports that are listed
_TAIL = 8192  # bytes at the end of a log, in which its last line is
_INNER = ("training", "data")  # folders of a run, in which no other run is

# A report is a page with its own script: it runs apart from this server's pages, and can ask them for nothing.
REPORT_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; frame-ancestors"
        " 'self'; sandbox allow-scripts"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the link may be signed
    "Cache-Control": "no-cache",
}


def run_endpoints(folder: Path | None, link: Callable[[str], str]) -> list[Endpoint]:
    """Lists of what is in the folder, a run's losses, a report; nothing where there is no folder. `link`: from a path
    to a link that wants no header."""

    async def listed(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(listing, folder, link))

    def of(kind: str, answer: Callable[[Path], Response]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            found = await run_in_threadpool(found_in, folder, kind)
            path = found.get(request.path_params["name"])
            gone = RequestError(f"no {kind} has this name; look again", "name", status=404)
            if path is None:
                raise gone
            try:
                return await run_in_threadpool(answer, path)
            except OSError:  # removed since
                raise gone from None

        return endpoint

    return [
        Get("/page/runs", "Runs and reports of the folder", listed),
        Get("/page/run/{name}", "A run's losses", of("run", lambda path: JSONResponse(run_curves(path)))),
        Get("/page/report/{name}", "A report", of("report", _report), {"type": "string"}, "text/html"),
    ]


def found_in(folder: Path | None, kind: str) -> Mapping[str, Path]:
    """The folders with a run's log ("run") or a comparison's report ("report"), by their paths below `folder`."""
    wanted = {"run": ("log.jsonl",), "report": ("report.html", "results.json")}[kind]
    found: dict[str, Path] = {}
    if folder is None:
        return found
    for root, folders, names in os.walk(folder):
        path = Path(root)
        depth = len(path.relative_to(folder).parts)
        folders[:] = sorted(one for one in folders if not one.startswith(".") and one not in _INNER and depth < DEEPEST)
        if all(name in names for name in wanted):
            found[path.relative_to(folder).as_posix() if depth else folder.resolve().name] = path
        if len(found) == MOST:
            break
    return found


def listing(folder: Path | None, link: Callable[[str], str]) -> dict[str, Any]:
    """Runs with their last figures, and reports with their advice and a link to each; the newest first. What cannot be
    read, or is removed meanwhile, is left out."""
    runs, reports = _told(folder, "run", run_state), _told(folder, "report", _advice)
    return {
        "runs": runs,
        "reports": [{**report, "link": link(f"/page/report/{report['name']}")} for report in reports],
    }


def _told(folder: Path | None, kind: str, tell: Callable[[Path], dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for name, path in found_in(folder, kind).items():
        with suppress(OSError):
            found.append({"name": name, **tell(path)})
    return sorted(found, key=lambda one: one["seconds_ago"])


def run_state(path: Path) -> dict[str, Any]:
    """Where a run stands, by the last line of its log; `steps`: how many there will be, where run.toml says so."""
    path_of_log = path / "log.jsonl"
    with path_of_log.open("rb") as log:
        log.seek(max(0, path_of_log.stat().st_size - _TAIL))
        lines = log.read().splitlines(keepends=True)
    last = next((found for line in reversed(lines) if "step" in (found := _logged(line))), {})
    return {
        "step": int(last.get("step", 0)),
        "tokens": int(last.get("tokens", 0)),
        "loss": last.get("loss"),
        "tokens_per_second": last.get("tokens_per_second"),
        "steps": _planned(path / "run.toml"),
        "seconds_ago": time.time() - path_of_log.stat().st_mtime,
    }


def run_curves(path: Path) -> dict[str, Any]:
    """A run's losses against tokens read, thinned to what can be drawn, and where it stands."""
    with (path / "log.jsonl").open("rb") as log:
        lines = [line for line in map(_logged, log) if line.get("tokens", 0) > 0]
    training, validation = losses(lines)
    return {"training": training, "validation": validation, **run_state(path)}


def _logged(line: bytes) -> dict[str, float]:
    """The numbers of a log's line; none where it is not written to its end, or is no object."""
    if not line.endswith(b"\n"):
        return {}
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    numbers = found.items() if isinstance(found, dict) else ()
    return {name: value for name, value in numbers if isinstance(value, int | float) and math.isfinite(value)}


def _planned(path: Path) -> int | None:
    try:
        steps = tomllib.loads(path.read_text(encoding="utf-8"))["decided"]["steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return steps if isinstance(steps, int) else None


def _advice(path: Path) -> dict[str, Any]:
    """What a comparison's results say, as far as they can be read."""
    try:
        found = json.loads((path / "results.json").read_text(encoding="utf-8"))
        told = {name: found[name] for name in ("task", "model", "n", "advice")}
    except (OSError, ValueError, KeyError, TypeError):
        told = {"task": path.name, "model": "", "n": None, "advice": ""}
    return {**told, "seconds_ago": time.time() - (path / "report.html").stat().st_mtime}


def _report(path: Path) -> Response:
    return FileResponse(path / "report.html", media_type="text/html", headers=REPORT_HEADERS)
