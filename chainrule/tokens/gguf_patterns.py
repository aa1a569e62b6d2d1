"""How llama.cpp's names of pre-tokenizers (`tokenizer.ggml.pre`) cut a text into words, as a tokenizer.json says it.

llama.cpp has each one's regular expressions in its code; what stands here is what the models' own tokenizer.json says,
of which these are adaptations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chainrule.tokens import bytepair


@dataclass(frozen=True)
class Splitting:
    """How one family of tokenizers prepares a text for its merges."""

    pre_tokenizer: Mapping[str, Any]  # of tokenizer.json
    nfc: bool = False  # the text is normalised to NFC first; llama.cpp does not do so
    ignore_merges: bool = False  # a word that is a token is that token, whatever the merges make of it
    adds_bos: bool = False  # where the file does not say


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _sequence(*parts: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": [dict(part) for part in parts]}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _by(*patterns: str) -> dict[str, Any]:
    """Cut by each pattern in turn, then taken as bytes."""
    return _sequence(*map(_split, patterns), _byte_level(use_regex=False))


_LETTER_CASES = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
)
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_ENDS = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT4O = _LETTER_CASES % (_CONTRACTION, _CONTRACTION) + r"|\p{N}{1,3}" + _ENDS
_TEKKEN = _LETTER_CASES % ("", "") + r"|\p{N}" + _ENDS
_QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2 = Splitting(_byte_level(use_regex=True))
_DIGITS = Splitting(_sequence({"type": "Digits", "individual_digits": True}, _byte_level(use_regex=True)))
_LLAMA3 = Splitting(_by(bytepair.LLAMA3), ignore_merges=True, adds_bos=True)
_QWEN2 = Splitting(_by(bytepair.QWEN2), nfc=True)
_DEFAULT = Splitting(_by(r"[\p{P}\$\+<=>\^~\|]+", bytepair.GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))
_CJK = r"[一-龥ࠀ-一가-퟿]+"

# The first name of a splitting is the one that is written.
SPLITTINGS: Mapping[str, Splitting] = {
    "default": _DEFAULT,
    "llama-bpe": _LLAMA3,
    **dict.fromkeys(("llama3", "llama-v3", "falcon3", "pixtral", "lfm2"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe"), Splitting(_by(bytepair.LLAMA3))),
    "qwen2": _QWEN2,
    **dict.fromkeys(("deepseek-r1-qwen", "megrez", "stablelm2"), _QWEN2),
    "qwen35": Splitting(_by(_QWEN35)),
    "gpt-2": _GPT2,
    **dict.fromkeys(("phi-2", "mpt", "jais", "trillion", "exaone4", "gigachat", "a.x-4.0", "mellum"), _GPT2),
    "olmo": Splitting(_byte_level(use_regex=True), nfc=True),
    "smollm": _DIGITS,
    **dict.fromkeys(("starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _DIGITS),
    "gpt-4o": Splitting(_by(_GPT4O)),
    "llama4": Splitting(_by(_GPT4O)),
    "tekken": Splitting(_by(_TEKKEN), ignore_merges=True, adds_bos=True),
    "falcon": Splitting(_by(r"[\p{P}\$\+<=>\^~\|`]+", bytepair.GPT2, "[0-9][0-9][0-9]")),
    "deepseek-coder": Splitting(_by(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")),
    "deepseek-v3": Splitting(
        _by(
            r"\p{N}{1,3}",
            "[一-龥぀-ゟ゠-ヿ]+",
            r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )
    ),
}


def name_of(pre_tokenizer: Mapping[str, Any] | None, nfc: bool) -> str | None:
    """llama.cpp's name of a tokenizer.json's `pre_tokenizer`; None where it has none.

    Some names stand for the same words with and without NFC; one that agrees on both is preferred.
    """
    wanted = canonical(pre_tokenizer)
    names = [name for name, each in SPLITTINGS.items() if canonical(each.pre_tokenizer) == wanted]
    return next((name for name in names if SPLITTINGS[name].nfc == nfc), names[0] if names else None)


def canonical(pre_tokenizer: Mapping[str, Any] | None) -> list[str]:
    """What makes a difference for the ids."""
    found: list[str] = []
    if pre_tokenizer is None:
        return found
    for part in pre_tokenizer.get("pretokenizers", [pre_tokenizer]):
        if part["type"] == "ByteLevel" and not part.get("add_prefix_space"):
            found += [bytepair.GPT2] if part.get("use_regex", True) else []
        elif part["type"] == "Split" and part["behavior"] == "Isolated" and not part["invert"]:
            found.append(next(iter(part["pattern"].values())))
        elif part["type"] == "Digits" and part["individual_digits"]:
            found.append(r"\p{N}")
        else:
            found.append(str(sorted(part.items())))
    return found
