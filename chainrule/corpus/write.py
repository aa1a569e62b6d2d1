"""Tokenizes documents to shards on disk. Knows files and splits, not what is trained on them."""

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrule.corpus.documents import Documents, Part, batches, recut
from chainrule.corpus.encode import Encoding, Tokens, encode, token_type
from chainrule.corpus.options import CorpusOptions
from chainrule.corpus.shards import FORMAT, MANIFEST, SPLITS, Shards, Split
from chainrule.errors import DataError, FolderError
from chainrule.storage.files import (
    atomic_write,
    nothing_left_if_refused,
    sha256,
    sweep,
    write_json,
)
from chainrule.storage.hub import model_directory
from chainrule.storage.inputs import find_files, source_of
from chainrule.storage.locks import only_writer
from chainrule.storage.records import Log, no_log
from chainrule.storage.remote import without_secrets
from chainrule.storage.run_folder import find_record, read_record, require_same
from chainrule.tokens.make import byte_tokenizer, character_tokenizer, train_bpe
from chainrule.tokens.tokenizer import Tokenizer, load_tokenizer
from chainrule.workers.processes import map_in_processes

__all__ = ["CorpusOptions", "Shards", "Split", "Summary", "write_shards"]

_KIND = "a folder of shards"
STATE = "state.json"  # the manifest while it is not finished
KINDS = ("bpe", "char", "byte")  # of tokenizers that are made here
SHARD = 1 << 24  # tokens of a shard, about: it ends with the batch that reaches it
SAMPLE = 100 << 20  # bytes of text, about, that a tokenizer is trained on
Share = Callable[[Encoding, Iterable[list[Part]]], Iterator[tuple[Tokens, Tokens]]]  # the tokens of batches, in order
SMALL = 16 << 20  # bytes of input below which processes take longer to start than they save


@dataclass(frozen=True)
class Summary:
    """tokens: ⊥ included. bytes: of the documents' text, as UTF-8. seconds: this call took."""

    documents: int
    tokens: int
    bytes: int
    skipped: int
    seconds: float


def write_shards(
    inputs: Sequence[str],
    out: Path,
    options: CorpusOptions,
    progress: Callable[[int, int], None] | None = None,
    log: Log = no_log,
    share: Share | None = None,
    made_before: Tokenizer | None = None,
) -> Summary:
    """Tokenize the documents of `inputs` (files, folders, globs, "-") into `out`; the same bytes for any workers.

    `share` encodes the batches elsewhere than in processes of this machine. `made_before`: the tokenizer that would be
    made of this text, where it is there already.

    After a kill the same call continues after the last finished shard; when all is done it returns at once. `progress`
    is called with the bytes of text done and those of all files, `log` with lines about what was left out. Raises
    DataError for input that cannot be read, leaving nothing, FolderError for an `out` that holds something else, and
    WorkerKilledError when a process is killed.
    """
    started = time.monotonic()
    files, given = find_files(inputs, log), given_tokenizer(options)
    with only_writer(out), nothing_left_if_refused(out, underway=("*.bin",)):
        made = _made(out)
        out.mkdir(parents=True, exist_ok=True)
        with _readable(files, out) as (paths, sources):
            asked = kept_options(options, given)
            plan = {"format": FORMAT, "options": asked, "sources": sources, "batches": 0, "shards": []}
            if made is not None:
                _require_same(out, made, plan)
            if made is None or "documents" not in made:
                made = _write(paths, out, options, given or made_before, made or plan, progress, log, share)
    return Summary(made["documents"], made["tokens"], made["bytes"], made["skipped"], time.monotonic() - started)


def given_tokenizer(options: CorpusOptions) -> Tokenizer | None:
    """The tokenizer that --tokenizer names; None where one is to be made."""
    if options.tokenizer in KINDS:
        return None
    given = _load(options.tokenizer)
    if options.mask and given.mask is None:
        raise DataError(
            f"--tokenizer {options.tokenizer}: wanted one with a mask token, as the masked objective needs, got one"
            " without: name another, or have one made"
        )
    return given


def _load(tokenizer: str) -> Tokenizer:
    if not Path(tokenizer).exists() and "/" not in tokenizer:
        raise DataError(f"--tokenizer: wanted bpe, char, byte, a path or owner/name on the Hub, got {tokenizer}")
    return load_tokenizer(model_directory(tokenizer, weights=False))


def kept_options(options: CorpusOptions, given: Tokenizer | None) -> dict[str, Any]:
    """The options that the bytes depend on; a given tokenizer by its hash."""
    kept = asdict(options) | {"tokenizer": given.hash if given else options.tokenizer}
    del kept["workers"]
    if not options.mask or given:
        del kept["mask"]
    if options.tokenizer != "bpe":
        del kept["vocabulary_size"]
    return kept


def _made(out: Path) -> dict[str, Any] | None:
    """What `out` records of an earlier call: its manifest, or its unfinished state; None if it is new or empty."""
    path = find_record(out, (MANIFEST, STATE), _KIND)
    if path is None:
        return None
    made = read_record(path, _KIND, wanted=("format", "options", "sources"))
    if made["format"] != FORMAT:
        raise FolderError(f"{path}: wanted {FORMAT}, got {made['format']}; choose another --out")
    return made


def batches_done(out: Path) -> int:
    """How many batches are in the shards of `out`, which a killed command left; 0 for a new one."""
    made = _made(out)
    return 0 if made is None else int(made.get("batches", 0))


def _require_same(out: Path, made: dict[str, Any], plan: dict[str, Any]) -> None:
    require_same(out, made["options"], plan["options"])
    if made["sources"] != plan["sources"]:
        differing = [source["path"] for source in plan["sources"] if source not in made["sources"]]
        which = f"{differing[0]} is new or has changed" if differing else "there was more, or in another order"
        raise FolderError(
            f"--out {out}: wanted the text that its shards were made from, got other input ({which}); use the same, or"
            " another --out"
        )


@contextmanager
def _readable(files: Sequence[str], out: Path) -> Iterator[tuple[list[str], list[dict[str, Any]]]]:
    """Paths that can be read more than once (standard input is copied), and what identifies the files next time."""
    sweep(out)
    spooled = out / ".standard-input.partial"
    try:
        sources = []
        for file in files:
            if file == "-":
                with spooled.open("wb") as copy:
                    shutil.copyfileobj(sys.stdin.buffer, copy)
                sources.append({"path": file, "bytes": spooled.stat().st_size, "sha256": sha256(spooled)})
            else:
                sources.append(source_of(file))
        yield [str(spooled) if file == "-" else file for file in files], sources
    finally:
        spooled.unlink(missing_ok=True)


def all_batches(documents: Documents, tokenizer: Tokenizer) -> Iterator[list[Part]]:
    """All text in batches, which depend on it and the tokenizer alone: the pieces that workers and parts take."""
    return batches(recut(documents.parts(), tokenizer.cut))


def _write(
    paths: Sequence[str],
    out: Path,
    options: CorpusOptions,
    given: Tokenizer | None,
    state: dict[str, Any],
    progress: Callable[[int, int], None] | None,
    log: Log,
    share: Share | None,
) -> dict[str, Any]:
    """Do what `state` leaves to do, and return the manifest."""
    write_json(out / STATE, state)
    documents = Documents(paths, options, log)
    total = sum(source["bytes"] for source in state["sources"])
    if "tokenizer" not in state:
        tokenizer = given or make_tokenizer(options, documents)
        tokenizer.save(out)
        dtype = np.dtype(token_type(tokenizer.vocabulary_size)).name
        state |= {"tokenizer": tokenizer.hash, "vocabulary_size": tokenizer.vocabulary_size, "dtype": dtype}
    tokenizer = load_tokenizer(out)
    share = share or here(tokenizer, total, options.workers)
    todo = islice(all_batches(documents, tokenizer), state["batches"], None)
    pending: list[tuple[Tokens, Tokens]] = []
    tokens = 0
    for encoded in share(Encoding.of(tokenizer), todo):
        pending.append(encoded)
        tokens += sum(len(split.tokens) for split in encoded)
        if tokens >= SHARD:
            state["shards"] += _write_shards(out, state, pending)
            state["batches"] += len(pending)
            write_json(out / STATE, state)
            pending, tokens = [], 0
        if progress is not None:
            progress(documents.bytes, total)
    if documents.documents == 0:
        named = ", ".join(map(without_secrets, paths))[:200]
        raise DataError(f"wanted documents, {named} have none: see that there is text in them")
    state["shards"] += _write_shards(out, state, pending)
    manifest = {
        **{key: value for key, value in state.items() if key != "batches"},
        "validation_by": "document" if documents.tail is None else "tail",
        "documents": documents.documents,
        "tokens": sum(shard["tokens"] for shard in state["shards"]),
        "bytes": documents.bytes,
        "skipped": documents.skipped,
    }
    write_json(out / MANIFEST, manifest)
    (out / STATE).unlink()
    return manifest


def here(tokenizer: Tokenizer, total: int, workers: int | None) -> Share:
    """Who encodes `total` bytes of text where nobody else does: this process, or some of this machine."""
    workers = 1 if total < SMALL or tokenizer.is_table else workers or _cores()
    if workers == 1:
        return lambda begin, todo: (encode(tokenizer, batch) for batch in todo)
    return lambda begin, todo: map_in_processes(begin, todo, workers)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_tokenizer(options: CorpusOptions, documents: Documents) -> Tokenizer:
    """A tokenizer of the kind that the options name, made of the training text."""
    if options.tokenizer == "byte":
        return byte_tokenizer(options.mask)
    if options.tokenizer == "char":
        return character_tokenizer((piece.text for piece in documents.pieces()), options.mask)
    return train_bpe(documents.sample(SAMPLE), options.vocabulary_size, options.mask)


def _write_shards(out: Path, state: dict[str, Any], pending: Sequence[tuple[Tokens, Tokens]]) -> list[dict[str, Any]]:
    """Write the pending tokens of each split, if any, as its next shard; returns their entries in the manifest."""
    entries = []
    for split, chunks in zip(SPLITS, zip(*pending, strict=True), strict=False):
        if any(len(chunk.tokens) for chunk in chunks):
            number = sum(shard["split"] == split for shard in state["shards"])
            lengths = np.cumsum([0, *(len(chunk.tokens) for chunk in chunks)])
            offsets = [chunk.documents + start for chunk, start in zip(chunks, lengths[:-1], strict=True)]
            entries.append(
                {
                    "file": f"{split}-{number:05d}.bin",
                    "split": split,
                    "tokens": int(lengths[-1]),
                    "documents": sum(map(len, offsets)),
                    "sha256": _write_arrays(out / f"{split}-{number:05d}.bin", [chunk.tokens for chunk in chunks]),
                    "offsets_sha256": _write_arrays(out / f"{split}-{number:05d}.offsets", offsets),
                }
            )
    return entries


def _write_arrays(path: Path, arrays: Iterable[NDArray[Any]]) -> str:
    """Write the numbers of `arrays`, little-endian, one after another; the SHA-256 of the file."""
    digest = hashlib.sha256()
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        for array in arrays:
            content = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
            digest.update(content)
            file.write(content)
    return digest.hexdigest()
