"""The command `tokenize`: documents to shards of tokens."""

from dataclasses import asdict
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from chainrule.commands.options import Json
from chainrule.text.corpus import CorpusOptions


def tokenize(
    inputs: Positional[list[str]],
    /,
    out: Path,
    corpus: OmitArgPrefixes[CorpusOptions] = CorpusOptions(),
    json: Json = False,
) -> None:
    """Turn documents (.txt .jsonl .csv .tsv .parquet, folders, globs, - for standard input) into shards of tokens.

    Args:
        inputs: Files, folders or globs; - reads standard input.
        out: The folder that the shards go to.
        json: Print one JSON document.
    """
    from chainrule.terminal import print_json, progress_bar, say
    from chainrule.text.corpus import write_shards

    with progress_bar(1.0, "tokenizing") as show:
        summary = write_shards(
            inputs, out, corpus, lambda done, all_of_it: show(done / max(1, all_of_it), f"{done / 1e6:.0f} MB"), say
        )
    if json:
        print_json(asdict(summary))
        return
    print(
        f"{summary.documents} documents, {summary.bytes} bytes -> {summary.tokens} tokens in {out}"
        f" ({summary.seconds:.1f} s)" + (f"; {summary.skipped} skipped" if summary.skipped else "")
    )
