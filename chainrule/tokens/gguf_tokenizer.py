"""A tokenizer from a GGUF's metadata, as the files of a Hugging Face tokenizer. Knows no weights."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from chainrule.errors import ModelError
from chainrule.storage.gguf import GGUFFile, read_gguf
from chainrule.tokens import bytepair, tables
from chainrule.tokens.gguf_patterns import SPLITTINGS, Splitting
from chainrule.tokens.score_merges import merges_by_scores

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # token_type
NFC_KEY = "chainrule.tokenizer.nfc"  # whether the text is normalised, which llama.cpp's keys don't say
NO_MERGE = "a Ġ"  # llama.cpp wants a merge; no word of any pattern has a letter before a space
_BPE, _SENTENCEPIECE = "gpt2", "llama"  # tokenizer.ggml.model
_SPACE = "▁"  # how SentencePiece writes one
# Control tokens at which llama.cpp ends a text, whatever the file calls its eos.
ENDS = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>"),
    *("<|end_of_text|>", "<EOT>", "_<EOT>", "<｜end▁of▁sentence｜>"),
)


def tokenizer_files(path: Path) -> tuple[dict[str, bytes], dict[str, Any], dict[str, Any]]:
    """What a directory of that model would hold: the tokenizer's files by name, and what its config.json and
    generation_config.json say of tokens.

    Raises ModelError for a tokenizer of a kind that is not supported, and for metadata that contradicts itself.
    """
    vocabulary = Vocabulary(read_gguf(path))
    spec = vocabulary.tokenizer_json()
    files = {
        "tokenizer.json": json.dumps(spec, ensure_ascii=False).encode(),
        "tokenizer_config.json": json.dumps(vocabulary.settings(), ensure_ascii=False, indent=2).encode(),
    }
    return files, vocabulary.ids(), vocabulary.generation()


def generation_fields(path: Path) -> dict[str, Any]:
    """The generation_config.json of that directory; the same errors."""
    return Vocabulary(read_gguf(path)).generation()


@dataclass
class Vocabulary:
    """The tokenizer of one file."""

    file: GGUFFile

    @cached_property
    def kind(self) -> str:
        kind: str = self.file.want("tokenizer.ggml.model", str)
        if kind not in (_BPE, _SENTENCEPIECE):
            raise ModelError(
                f"{self.file.path}: wanted tokenizer.ggml.model to be gpt2 (byte-pair encoding) or llama (SentencePiece"
                f" BPE), got {kind!r}, which is not supported"
            )
        return kind

    @cached_property
    def tokens(self) -> list[str]:
        tokens = self.column("tokens", str)
        if not tokens:
            raise ModelError(f"{self.file.path}: wanted tokens in tokenizer.ggml.tokens, got none")
        return tokens

    @cached_property
    def types(self) -> list[int]:
        return self.column("token_type", int) or [NORMAL] * len(self.tokens)

    def column(self, name: str, kind: type) -> list[Any]:
        """A list of one entry for each token; empty where there is none."""
        key = f"tokenizer.ggml.{name}"
        values: list[Any] = self.file.get(key, list, [])
        if values and type(values[0]) is not kind:
            raise ModelError(f"{self.file.path}: wanted {key} to be a list of {kind.__name__}, got {values[0]!r} in it")
        if values and name != "tokens" and len(values) != len(self.tokens):
            raise ModelError(
                f"{self.file.path}: wanted {key} to have an entry for each of {len(self.tokens)} tokens, got"
                f" {len(values)}"
            )
        return values

    @cached_property
    def splitting(self) -> Splitting:
        name = self.file.get("tokenizer.ggml.pre", str, "default")
        if name not in SPLITTINGS:
            raise ModelError(
                f"{self.file.path}: wanted tokenizer.ggml.pre to be one of {', '.join(SPLITTINGS)}, got {name!r}: how"
                " that tokenizer cuts a text is not known; take the model's safetensors"
            )
        return SPLITTINGS[name]

    @cached_property
    def size(self) -> int:
        """Without the unused tokens at the end, which only fill the model's matrix."""
        used = np.flatnonzero(np.array(self.types) != UNUSED)
        return int(used[-1]) + 1 if len(used) else 0

    def of_types(self, *types: int) -> list[int]:
        """The tokens of these types."""
        found: list[int] = np.flatnonzero(np.isin(np.array(self.types[: self.size]), types)).tolist()
        return found

    def added(self) -> list[dict[str, Any]]:
        """Control, unknown and user-defined tokens, as tokenizer.json lists them."""
        found = self.of_types(CONTROL, UNKNOWN, USER_DEFINED)
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return [
            {"id": id, "content": self.tokens[id], **flags, "special": self.types[id] != USER_DEFINED} for id in found
        ]

    def id_of(self, role: str) -> int | None:
        id = self.file.get(f"tokenizer.ggml.{role}_token_id", int)
        if id is None and self.kind == _SENTENCEPIECE:
            id = {"bos": 1, "eos": 2, "unknown": 0}.get(role)  # SentencePiece's own
        if id is not None and not 0 <= id < len(self.tokens):
            raise ModelError(
                f"{self.file.path}: wanted tokenizer.ggml.{role}_token_id below {len(self.tokens)}, the number of"
                f" tokens, got {id}"
            )
        return id

    def adds(self, role: str) -> bool:
        """Whether the tokenizer puts bos in front of a text, or eos behind it, by itself."""
        default = role == "bos" and (self.kind == _SENTENCEPIECE or self.splitting.adds_bos)
        return bool(self.file.get(f"tokenizer.ggml.add_{role}_token", bool, default))

    def ids(self) -> dict[str, Any]:
        """What config.json says of special tokens."""
        roles = {"bos": "bos", "eos": "eos", "pad": "padding"}
        found = {f"{ours}_token_id": self.id_of(theirs) for ours, theirs in roles.items()}
        return {name: id for name, id in found.items() if id is not None}

    def ends(self) -> list[int]:
        """The tokens that end a generated text: eos, the ends of a turn and of a message, and those of ENDS."""
        named = [id for role in ("eos", "eot", "eom") if (id := self.id_of(role)) is not None]
        spelled = [id for id in self.of_types(CONTROL) if self.tokens[id] in ENDS]
        return list(dict.fromkeys(named + spelled))

    def generation(self) -> dict[str, Any]:
        """The fields of generation_config.json; none where the file names no end: BOS ends a text then."""
        ends = self.ends()
        return {"eos_token_id": ends} if ends else {}

    def settings(self) -> dict[str, Any]:
        """tokenizer_config.json."""
        roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "mask": "mask"}
        named = {
            f"{ours}_token": self.tokens[id] for ours, theirs in roles.items() if (id := self.id_of(theirs)) is not None
        }
        templates = self.templates()
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **named,
            "add_bos_token": self.adds("bos"),
            "add_eos_token": self.adds("eos"),
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
            **({"chat_template": templates} if templates else {}),
        }

    def templates(self) -> Any:
        default = self.file.get("tokenizer.chat_template", str)
        names = self.file.get("tokenizer.chat_templates", list, [])
        others = {name: self.file.get(f"tokenizer.chat_template.{name}", str) for name in names}
        if not any(others.values()):
            return default
        given = {"default": default, **others}
        return [{"name": name, "template": template} for name, template in given.items() if template]

    def tokenizer_json(self) -> dict[str, Any]:
        parts = self.byte_level() if self.kind == _BPE else self.sentencepiece()
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": self.added(),
            "post_processor": self.post_processor(),
            **parts,
        }

    def post_processor(self) -> dict[str, Any] | None:
        bos, eos = (self.id_of(role) if self.adds(role) else None for role in ("bos", "eos"))
        if bos is None and eos is None:
            return None
        front, behind = ([] if id is None else [self.tokens[id]] for id in (bos, eos))
        return {
            "type": "TemplateProcessing",
            "single": [*map(_special, front), _sequence("A", 0), *map(_special, behind)],
            "pair": [
                *[*map(_special, front), _sequence("A", 0), *map(_special, behind)],
                *[*map(_special, front), _sequence("B", 1), *map(_special, behind)],
            ],
            "special_tokens": {
                self.tokens[id]: {"id": self.tokens[id], "ids": [id], "tokens": [self.tokens[id]]}
                for id in (bos, eos)
                if id is not None
            },
        }

    # Byte-level byte-pair encoding

    def byte_level(self) -> dict[str, Any]:
        merges = self.merges()
        if merges is None:
            return self.characters()
        nfc = self.file.get(
            NFC_KEY, bool, self.splitting.nfc or self.file.metadata.get("general.architecture") == "gptneox"
        )
        return {
            "normalizer": {"type": "NFC"} if nfc else None,
            "pre_tokenizer": dict(self.splitting.pre_tokenizer),
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": _bpe(self.vocabulary, merges, ignore_merges=self.splitting.ignore_merges),
        }

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        return dict(zip(self.tokens[: self.size], range(self.size), strict=True))

    def merges(self) -> list[str] | None:
        """The merges, a space between two tokens; None for a vocabulary of characters, which are made of bytes that are
        no tokens. There can be half a million: they are not looked at one by one."""
        lines = self.file.want("tokenizer.ggml.merges", list)
        if lines and not isinstance(lines[0], str):
            raise ModelError(f"{self.file.path}: wanted tokenizer.ggml.merges to be texts, got {lines[0]!r} in it")
        if lines == [NO_MERGE]:
            return []
        if self.alphabet() is None:
            return lines  # one of unknown tokens is refused by `tokenizers`
        known = self.vocabulary
        parts = [line.split(" ", 1) for line in lines]
        whole = all(len(part) == 2 and part[0] in known and part[1] in known for part in parts)
        return lines if lines and whole else None

    def alphabet(self) -> list[str] | None:
        """The normal tokens as characters, where each is a single one (so not all bytes are tokens); else None."""
        found = []
        for id in range(self.size):
            if self.types[id] == NORMAL:
                try:
                    character = bytepair.token_bytes(self.tokens[id]).decode()
                except (KeyError, UnicodeDecodeError):
                    return None
                if len(character) != 1:
                    return None
                found.append(character)
        return found

    def characters(self) -> dict[str, Any]:
        """As `tables.characters` has it: an unseen character is an error."""
        alphabet = self.alphabet()
        assert alphabet is not None
        spec: dict[str, Any] = json.loads(tables.characters(alphabet).to_str())
        spec["model"]["vocab"] = {
            bytepair.token_bytes(token).decode() if kind == NORMAL else token: id
            for id, (token, kind) in enumerate(zip(self.tokens[: self.size], self.types, strict=False))
        }
        return {name: spec[name] for name in ("normalizer", "pre_tokenizer", "decoder", "model")}

    # SentencePiece's byte-pair encoding

    def sentencepiece(self) -> dict[str, Any]:
        prefix = self.file.get("tokenizer.ggml.add_space_prefix", bool, True)
        unknown = self.id_of("unknown")
        space: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}]
        back: list[dict[str, Any]] = [
            {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]
        if prefix:
            space.insert(0, {"type": "Prepend", "prepend": _SPACE})
            back.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
        model = _bpe(self.vocabulary, self.merges_of_scores(), byte_fallback=True)
        return {
            "normalizer": {"type": "Sequence", "normalizers": space},
            "pre_tokenizer": None,
            "decoder": {"type": "Sequence", "decoders": back},
            "model": {**model, "fuse_unk": True, "unk_token": None if unknown is None else self.tokens[unknown]},
        }

    def merges_of_scores(self) -> list[str]:
        """As `merges_by_scores` has them."""
        scores = self.column("scores", float)
        if not scores:
            raise ModelError(
                f"{self.file.path}: wanted tokenizer.ggml.scores for a tokenizer of the kind llama, got none"
            )
        # a text has ▁ in place of a space
        joined = self.of_types(NORMAL, USER_DEFINED)
        ids = dict(zip([self.tokens[id] for id in joined], joined, strict=True))
        if any(" " in token for token in ids):
            ids = {token: id for token, id in ids.items() if " " not in token}
        return merges_by_scores(ids, np.array(scores))


def _special(token: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": 0}}


def _sequence(id: str, type_id: int) -> dict[str, Any]:
    return {"Sequence": {"id": id, "type_id": type_id}}


def _bpe(
    vocabulary: Mapping[str, int],
    merges: Sequence[Sequence[str]],  # of two tokens: a pair, or with a space between
    ignore_merges: bool = False,
    byte_fallback: bool = False,
) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": vocabulary,
        "merges": merges,
    }
