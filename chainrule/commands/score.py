"""The command `score`: the chain rule, token by token."""

import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from chainrule.arguments import Help
from chainrule.commands.options import (
    Json,
    Loading,
    Model,
    Reading,
    check_another_file,
    check_at_least,
    refuse_without,
    with_defaults,
)
from chainrule.commands.sharing import check_parts, working, write_shared
from chainrule.errors import OptionError
from chainrule.workers.options import Sharing

if TYPE_CHECKING:
    from chainrule.model_source import ModelSource


def score(
    model: Model,
    text: str | None = None,
    /,
    given: str = "",
    top: int = 5,
    source: Annotated[str | None, Help("FILE", name="input")] = None,
    out: Annotated[str | None, Help("FILE")] = None,
    reading: Reading = Reading(),
    sharing: Sharing = Sharing(),
    loading: Loading = Loading(),
    json: Json = False,
) -> None:
    """Show the log probability of each token of a text, and their sum.

    The chain rule: each token's probability given those before it. A masked model gives it from all the others, and
    fills the [MASK]s of a text that has some.

    Args:
        text: The text to score; - reads standard input.

    Options:
        given: Text that comes before it and is not scored.
        top: Show the N most probable tokens at each position.

    Many texts:
        source: Rows to score: .csv .tsv .jsonl .parquet, or .txt with a text per line.
        out: File for the same rows with log_prob, in nats, and tokens: .csv .tsv .jsonl.

    Example:
        chainrule score runs/books "To be, or not to be" --top 3
        chainrule score runs/books --input lines.txt --out scored.csv
    """
    from chainrule.language_model import LanguageModel
    from chainrule.masked_language_model import MaskedLanguageModel
    from chainrule.terminal import print_json, print_table

    check_at_least(0, top=top)
    if (source is None) == (text is None) or (source is None) != (out is None):
        raise OptionError("score: wanted a text, or --input and --out together; got neither or both: give one of them")
    if text is None:
        assert source is not None and out is not None
        refuse_without("a text", top=(top, 5))
        _score_file(loading.source(model), source, out, given, reading, sharing, json)
        return
    refuse_without("--input and --out", **with_defaults(reading), **with_defaults(sharing))
    lm = loading.load(model)
    text = sys.stdin.read() if text == "-" else text
    mask = lm.tokenizer.named.get("mask_token")
    if isinstance(lm, MaskedLanguageModel) and mask and mask in text:
        if given:
            raise OptionError(
                "--given: wanted a text without masks behind it, got one with some; put all into the text"
            )
        _print_blanks(lm.fill(text, top), json)
        return
    tokens = lm.score(text, given=given, top=top)
    total = sum(token.log_prob for token in tokens)
    if json:
        name = "log_prob" if isinstance(lm, LanguageModel) else "pseudo_log_prob"
        print_json({"tokens": [token._asdict() for token in tokens], name: total})
        return
    rows = [
        (
            repr(token.text)[1:-1],
            f"{token.log_prob:.3f}",
            "  ".join(f"{text!r} {log_prob:.2f}" for text, log_prob in token.alternatives),
        )
        for token in tokens
    ]
    print_table(("token", "log p", "most probable here"), [*rows, ("sum", f"{total:.3f}", "")])


def _score_file(
    model: "ModelSource",
    source: str,
    out: str,
    given: str,
    reading: Reading,
    sharing: Sharing,
    json: bool,
) -> None:
    """Write the rows with their log-probabilities, or a part of them."""
    from chainrule.commands.model_work import Scoring, score_rows
    from chainrule.language_model import LanguageModel
    from chainrule.model.formats.same_model import ForWorkers
    from chainrule.storage.inputs import source_of
    from chainrule.tasks.row_file import InputRows
    from chainrule.terminal import log, print_json
    from chainrule.workers.parts import identity

    started, made_with = time.monotonic(), dict[str, Any]()
    check_another_file(source, out, "--input")
    if sharing.in_parts:
        check_parts("score", source, out)
        made_with = identity("score", input=source_of(source), **model.depends_on, given=given, **vars(reading))
    lm = model.here(sharing.elsewhere)
    name = "log_prob" if isinstance(lm, LanguageModel) else "pseudo_log_prob"
    added, encoding, on_error = (name, "tokens"), reading.encoding, reading.on_error
    rows = InputRows(source, (reading.field,), added, encoding=encoding, on_error=on_error, log=log)
    begin = None if sharing.cluster is None else Scoring(ForWorkers.of(model), reading.field, given)
    here = partial(score_rows, lm, field=reading.field, given=given)
    with working(sharing, out, made_with, begin, here, model.device) as work:
        written = write_shared(sharing, rows, out, made_with, work, work, json, "scoring")
    if written is None:
        return
    seconds = time.monotonic() - started
    if json:
        print_json({"rows": written.rows, "empty": written.empty.count, "seconds": seconds})
    else:
        print(f"{out}: {written.rows} rows, {written.rows / seconds:,.0f} a second")
    if written.empty.count:
        log(f"rows without a score: {written.empty.count}, the first because of {written.empty.reason}")


def _print_blanks(filled: list[list[tuple[str, float]]], json: bool) -> None:
    """What a masked model would put into each blank."""
    from chainrule.terminal import print_json, print_table

    if json:
        print_json({"blanks": filled})
        return
    cells = ["  ".join(f"{word!r} {p:.4f}" for word, p in best) for best in filled]
    print_table(("blank", "p"), [(str(number), words) for number, words in enumerate(cells, 1)])
