"""The command `score`: the chain rule, token by token."""

import sys

from tyro.conf import Positional

from chainrule.commands.options import Device, Dtype, Json


def score(
    model: Positional[str],
    text: Positional[str],
    /,
    given: str = "",
    top: int = 5,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """The chain rule, token by token: log p of each given the ones before, the likeliest in its place, and the sum.

    A masked model gives each token given all others; where the text has masks, what it would put there.

    Args:
        model: A run, any Hugging Face directory, or a name on the Hub.
        text: The text to score; - reads standard input.
        given: What stands before it and is not scored.
        top: How many alternatives to show.
        device: Where to compute.
        dtype: What to compute in.
        json: Print one JSON document.
    """
    from chainrule.language_model import LanguageModel, load
    from chainrule.masked_language_model import MaskedLanguageModel
    from chainrule.terminal import print_json, print_table

    lm = load(model, device=device, dtype=dtype)
    text = sys.stdin.read() if text == "-" else text
    if isinstance(lm, MaskedLanguageModel) and lm.tokenizer.named["mask_token"] in text:
        if given:
            raise ValueError("--given: wanted a text without masks behind it, got one with some; put all into the text")
        _tell_blanks(lm.fill(text, top), json)
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
    print_table(("token", "log p", "likeliest in its place"), [*rows, ("sum", f"{total:.3f}", "")])


def _tell_blanks(filled: list[list[tuple[str, float]]], json: bool) -> None:
    """What a masked model would put into each blank."""
    from chainrule.terminal import print_json, print_table

    if json:
        print_json({"blanks": filled})
        return
    told = ["  ".join(f"{word!r} {p:.4f}" for word, p in best) for best in filled]
    print_table(("blank", "p"), [(str(number), words) for number, words in enumerate(told, 1)])
