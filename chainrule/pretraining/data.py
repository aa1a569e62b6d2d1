"""The shards of a run: those that it is given, or of its text in its own folder. Knows options, no model's weights."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from chainrule.corpus.write import CorpusOptions, Shards, write_shards
from chainrule.errors import OptionError
from chainrule.model.formats.checkpoint import described_by, read_config, refuse_classifier
from chainrule.pretraining.options import PretrainOptions, shape_of, windows_per_step
from chainrule.storage.records import Log
from chainrule.tokens.tokenizer import load_tokenizer
from chainrule.training.parallel import Processes


def check_options(data: Sequence[str], options: PretrainOptions, corpus: CorpusOptions, processes: Processes) -> None:
    """OptionError for what is impossible whatever the text is, before it is read and a model is made."""
    if options.start is None:
        shape = shape_of(options)
        rows, context = windows_per_step(options, shape.depth, shape.context), shape.context
    else:
        fields = read_config(options.start)
        refuse_classifier(options.start, fields)
        config, _, _ = described_by(options.start, fields)
        config.check_language_head()
        rows, context = windows_per_step(options, config.layers, config.context), config.context
        if config.causal == (options.objective == "masked"):
            wanted, kind = ("next", "causal") if config.causal else ("masked", "masked")
            raise OptionError(
                f"--objective: wanted {wanted} for {options.start}, which is a {kind} model, got {options.objective};"
                f" use --objective {wanted}"
            )
    if rows < processes.world:
        raise OptionError(
            f"--batch-tokens: wanted at least {processes.world * context}, a window of {context} tokens for each of"
            f" {processes.world} processes, got {rows * context}; raise it, or start fewer processes"
        )
    if corpus.validation == 0 and not _is_shards(data):
        raise OptionError("--validation: wanted more than 0, as a run is validated, got 0; 0.1 is usual")


def make_shards(data: Sequence[str], out: Path, options: PretrainOptions, corpus: CorpusOptions, log: Log) -> None:
    """Tokenize `data` into out/data, unless it is shards."""
    if not _is_shards(data):
        made = dataclasses.replace(corpus, mask=options.objective == "masked")
        write_shards(data, _directory(data, out), made, log=log)


def shards_of(data: Sequence[str], out: Path, options: PretrainOptions) -> Shards:
    """The shards that `data` is, or those of its text in out/data; their sizes are checked."""
    directory = _directory(data, out)
    if not (directory / "manifest.json").is_file():
        raise OptionError(
            f"--out {out}: wanted a folder that all processes share, got one without data; choose another"
        )
    shards = Shards(directory)
    if options.start is not None and load_tokenizer(options.start).hash != shards.tokenizer.hash:
        raise OptionError(
            f"--from {options.start}: wanted text in this model's tokens, got others; give --tokenizer {options.start}"
        )
    return shards


def _directory(data: Sequence[str], out: Path) -> Path:
    return Path(data[0]) if _is_shards(data) else out / "data"


def _is_shards(data: Sequence[str]) -> bool:
    return len(data) == 1 and (Path(data[0]) / "manifest.json").is_file()
