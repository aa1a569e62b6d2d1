"""The command `tokenize`: documents to shards of tokens."""

from dataclasses import asdict
from typing import Annotated

from chainrule.arguments import Help
from chainrule.commands.options import Folder, Json
from chainrule.commands.sharing import print_part, shared
from chainrule.corpus.options import CorpusOptions
from chainrule.workers.options import Sharing


def tokenize(
    inputs: Annotated[tuple[str, ...], Help("INPUT")],
    /,
    out: Folder,
    corpus: CorpusOptions = CorpusOptions(),
    sharing: Sharing = Sharing(),
    json: Json = False,
) -> None:
    """Turn text into a folder of tokens, ready for pretrain.

    Interrupted, the same command continues. pretrain also takes text itself and does this first.

    Args:
        inputs: Text: .txt .jsonl .csv .tsv .parquet, folders, globs, URLs, or - for standard input.

    Options:
        out: Folder to write to.

    Example:
        chainrule tokenize books/*.txt --out shards --tokenizer bpe --vocabulary-size 8192
    """
    from chainrule.corpus.parts import join_shards, tokenize_part
    from chainrule.corpus.write import write_shards
    from chainrule.terminal import log, print_json, progress_bar

    with progress_bar(1.0, "tokenizing") as bar, shared(sharing, workers=corpus.workers) as share:

        def show(done: int, all_of_it: int) -> None:
            bar(done / max(1, all_of_it), f"{done / 1e6:.0f} MB")

        if sharing.chosen is not None:
            pieces = tokenize_part(inputs, out, corpus, sharing.chosen, show, log, share)
            print_part(sharing.chosen, out, pieces, json)
            return
        if sharing.join:
            summary = join_shards(inputs, out, corpus, show, log)
        else:
            summary = write_shards(inputs, out, corpus, show, log, share)
    if json:
        print_json(asdict(summary))
        return
    print(
        f"{summary.documents} documents, {summary.bytes} bytes -> {summary.tokens} tokens in {out}"
        f" ({summary.seconds:.1f} s)" + (f"; {summary.skipped} skipped" if summary.skipped else "")
    )
