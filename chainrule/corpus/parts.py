"""Tokenizes a part of a corpus, and joins the parts to shards. Each part reads all of the text and encodes its batches.

The shards are those that one command would write, byte for byte: batches are cut and joined in the same order.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from chainrule.corpus.documents import Documents
from chainrule.corpus.documents import Part as TextPart
from chainrule.corpus.encode import Encoding, Tokens, pack, unpack
from chainrule.corpus.options import CorpusOptions
from chainrule.corpus.write import (
    Share,
    Summary,
    all_batches,
    batches_done,
    given_tokenizer,
    here,
    kept_options,
    make_tokenizer,
    write_shards,
)
from chainrule.errors import OptionError
from chainrule.storage.inputs import find_files, source_of
from chainrule.storage.records import Log, no_log
from chainrule.tokens.tokenizer import Tokenizer
from chainrule.workers.options import Part
from chainrule.workers.parts import Joined, Packed, identity, write_part

_PACKED = Packed(pack, unpack)


def tokenize_part(
    inputs: Sequence[str],
    out: Path,
    options: CorpusOptions,
    part: Part,
    progress: Callable[[int, int], None] = lambda done, total: None,
    log: Log = no_log,
    share: Share | None = None,
) -> int:
    """Encode this part's batches into its file beside `out`; their number. Errors as in `write_shards` and
    `write_part`."""
    files, given = find_files(inputs, log), given_tokenizer(options)
    made_with = _made_with(files, options, given)
    total = sum(source["bytes"] for source in made_with["input"])
    documents = Documents(files, options, log)
    encoding = Encoding.of(given or make_tokenizer(options, documents))
    tokenizer = encoding.tokenizer()
    encoded = share or here(tokenizer, total // part.count, options.workers)
    return write_part(
        out,
        part,
        made_with,
        lambda batches: encoded(encoding, batches),
        all_batches(documents, tokenizer),
        _PACKED,
        encoding.files,
        lambda done: progress(documents.bytes, total),
    )


def join_shards(
    inputs: Sequence[str],
    out: Path,
    options: CorpusOptions,
    progress: Callable[[int, int], None] = lambda done, total: None,
    log: Log = no_log,
) -> Summary:
    """The shards of the parts beside `out`, which are removed then; a join that was killed goes on after its last
    finished shard. Errors as in `write_shards` and `Joined`."""
    files, given = find_files(inputs, log), given_tokenizer(options)
    joined = Joined(out, _made_with(files, options, given), _PACKED)
    try:

        def from_parts(begin: Encoding, batches: Iterable[list[TextPart]]) -> Iterator[tuple[Tokens, Tokens]]:
            return joined.work(batches, batches_done(out))  # asked once no other command writes to `out`

        tokenizer = Encoding(joined.attached).tokenizer()
        found = write_shards(files, out, options, progress, log, from_parts, tokenizer)
    finally:
        joined.close()
    joined.remove()
    return found


def _made_with(files: Sequence[str], options: CorpusOptions, given: Tokenizer | None) -> dict[str, Any]:
    if "-" in files:
        raise OptionError("tokenize: wanted files, which every part reads, got - (standard input); write it to a file")
    return identity("tokenize", input=[source_of(file) for file in files], **kept_options(options, given))
