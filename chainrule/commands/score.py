"""The command `score`: the chain rule, token by token."""

import sys

from chainrule.commands.options import Bos, Device, Dtype, Json, Model, Quantize, check_at_least
from chainrule.errors import OptionError


def score(
    model: Model,
    text: str,
    /,
    given: str = "",
    top: int = 5,
    bos: Bos = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = "auto",
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

    Example:
        chainrule score runs/books "To be, or not to be" --top 3
    """
    from chainrule.language_model import LanguageModel, load
    from chainrule.masked_language_model import MaskedLanguageModel
    from chainrule.terminal import print_json, print_table

    check_at_least(0, top=top)
    lm = load(model, device=device, dtype=dtype, bos=bos, quantize=quantize)
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


def _print_blanks(filled: list[list[tuple[str, float]]], json: bool) -> None:
    """What a masked model would put into each blank."""
    from chainrule.terminal import print_json, print_table

    if json:
        print_json({"blanks": filled})
        return
    cells = ["  ".join(f"{word!r} {p:.4f}" for word, p in best) for best in filled]
    print_table(("blank", "p"), [(str(number), words) for number, words in enumerate(cells, 1)])
