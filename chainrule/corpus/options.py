"""What a user may ask of a corpus. Imports nothing heavy: --help shows it."""

from dataclasses import dataclass
from typing import Annotated, Literal

from chainrule.arguments import Help
from chainrule.errors import OptionError


@dataclass(frozen=True)
class CorpusOptions:
    """How documents become shards of tokens.

    Text:
        tokenizer: bpe, char or byte to train one; or a folder or Hub name.
        vocabulary_size: Vocabulary size, for --tokenizer bpe.
        field: Column or key with the text of a row.
        validation: Share of the text to validate on.
        encoding: Encoding of files without a byte-order mark.
        on_error: Stop at an unreadable document, or skip it and count it.
        mask: Add a [MASK] token, for pretrain --objective masked.
        workers: Processes that tokenize (default one per core).
    """

    tokenizer: Annotated[str, Help("KIND")] = "bpe"
    vocabulary_size: int = 8192
    field: Annotated[str, Help("NAME")] = "text"
    validation: Annotated[float, Help("SHARE")] = 0.1
    encoding: Annotated[str, Help("NAME")] = "utf-8"
    on_error: Literal["stop", "skip"] = "stop"
    mask: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise OptionError(f"--validation: wanted from 0 to below 1, got {self.validation}: 0.1 is usual")
        if self.workers is not None and self.workers < 1:
            raise OptionError(f"--workers: wanted 1 or more, got {self.workers}: leave it out for one a core")
        if self.on_error not in ("stop", "skip"):
            raise OptionError(f"--on-error: wanted stop or skip, got {self.on_error}: choose one")
        if self.tokenizer == "bpe" and self.vocabulary_size < 257:
            raise OptionError(f"--vocabulary-size: wanted 257 (256 bytes and ⊥) or more, got {self.vocabulary_size}")
