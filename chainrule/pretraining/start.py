"""Opens a pretraining run: checks its options, makes it or resumes it. Knows no terminal."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from chainrule import machine
from chainrule.corpus.batches import Batches
from chainrule.corpus.options import CorpusOptions
from chainrule.corpus.shards import Shards, Split
from chainrule.errors import DataError, OptionError
from chainrule.language_model import make_language_model, stop_tokens_of
from chainrule.model.formats.checkpoint import load_weights, save_config
from chainrule.model.formats.tensors import Tensors
from chainrule.model.transformer import Transformer
from chainrule.pretraining.adapted import AdaptedModel, adapt
from chainrule.pretraining.data import check_options, make_shards, shards_of
from chainrule.pretraining.decide import Log, checkpoint_activations, decide, make_model, make_optimizer, measure
from chainrule.pretraining.memory import require_memory_of_steps, require_memory_of_weights
from chainrule.pretraining.options import PretrainOptions
from chainrule.pretraining.record import asked_options, checked_manifest, decided_before, stored_run, write_record
from chainrule.pretraining.run import Decided, Run
from chainrule.storage.files import sweep
from chainrule.storage.hub import model_directory
from chainrule.tokens.tokenizer import Tokenizer
from chainrule.training.checkpoints import Keeping, resumed
from chainrule.training.objectives import MaskedToken, NextToken, PretrainingObjective, SpecialTokens, Windows
from chainrule.training.parallel import ALONE, Processes
from chainrule.training.parallel_options import ParallelOptions
from chainrule.training.sharding import decide_sharding, shard_by_block
from chainrule.training.torchrun import require_same_command


def open_run(
    data: Sequence[str],
    out: Path,
    options: PretrainOptions,
    corpus: CorpusOptions,
    *,
    device: str = "auto",
    dtype: str = "auto",
    log: Log = lambda line: None,
    processes: Processes = ALONE,
    parallel: ParallelOptions = ParallelOptions(),
) -> Run:
    """The run of these options in `out`, new or where it stopped. `log` is called with lines for the user.

    `data` is a directory of shards, or text, which is tokenized into out/data first. All `processes` call this alike:
    the first one tokenizes, decides and writes. Raises FolderError where `out` holds something else or a run of other
    options or data, OptionError for options that do not fit the data, the model or the processes, and DataError for
    text that cannot be read and shards that were altered.
    """
    started = time.monotonic()
    asked, named = asked_options(data, options, corpus, device, dtype), str(options.start)
    require_same_command(processes, asked, {"data": "DATA"}, parallel)
    if options.train == "lora" and processes.world > 1:
        raise OptionError(
            f"--train lora: wanted one process, as an adapter is small, got {processes.world}; start it"
            " without torchrun"
        )
    with processes.together():
        stored = stored_run(out, asked)
        options, corpus = _resolved(options, corpus)
        check_options(data, options, corpus, processes)
        if processes.first:
            for folder in (out, out / "training"):
                sweep(folder)
            make_shards(data, out, options, corpus, log)
    with processes.together():
        shards, where = shards_of(data, out, options), machine.device(device)
        manifest = checked_manifest(shards, out, options, stored, processes)
        model, family, adapted = _made(shards.tokenizer.vocabulary_size, options, named, where, processes)
        if adapted is not None and stored is not None:
            adapted.require_same_base(out, stored)
        batches, validation = _splits(shards, options, model.config.context)
        decided = decided_before(out, stored, processes) or decide(model, where, options, dtype, processes, parallel)
    decided = Decided(**processes.from_first(dataclasses.asdict(decided)))
    checkpoint = resumed(out / "training", processes)
    objective = _objective(shards.tokenizer, options, Windows(batches, decided.rows, decided.micro_rows, where.type))
    with processes.together():
        if checkpoint is not None and adapted is None:
            load_weights(model, family, Tensors(checkpoint.path), model.device)
        elif checkpoint is not None:
            model.load_state_dict(checkpoint.tensors("model"), strict=False)
    _require_same_data(manifest, model, processes)
    _place(model, decided, where, parallel, processes)
    if processes.world == 1:
        require_memory_of_steps(model, options, decided)
    if stored is None:
        decided = measure(decided, model, objective, len(validation), options, started, log, processes)
        decided = dataclasses.replace(decided, micro_rows=objective.windows.micro_batch_size)  # memory may have run out
    run = Run(
        out,
        make_language_model(model, shards.tokenizer, family, _stop_tokens(shards.tokenizer, options)),
        objective,
        make_optimizer(model, options, decided.steps, processes),
        validation,
        decided,
        processes,
        Keeping(options.keep or 1, best=options.keep is not None),
        adapted,
    )
    with processes.together():
        if stored is None and processes.first:
            _begin(run, asked, shards)
        if checkpoint is not None:
            run.trainer.resume(checkpoint)
            if processes.first:
                run.publish()  # a kill may have come between saving and publishing
    return run


def _resolved(options: PretrainOptions, corpus: CorpusOptions) -> tuple[PretrainOptions, CorpusOptions]:
    """The same with the folder of --from, which may be a name on the Hub, and its tokenizer where none is named."""
    if options.start is None:
        return options, corpus
    options = dataclasses.replace(options, start=model_directory(options.start))
    if corpus.tokenizer == CorpusOptions.tokenizer:
        corpus = dataclasses.replace(corpus, tokenizer=str(options.start))
    return options, corpus


def _made(
    vocabulary_size: int, options: PretrainOptions, named: str, where: torch.device, processes: Processes
) -> tuple[Transformer, str, AdaptedModel | None]:
    """The model, its family, and what is trained beside it; `named`: as --from was typed."""
    # Parts of it go to the devices of several processes.
    made_on = where if processes.world == 1 else torch.device("cpu")
    if options.start is None and processes.world == 1:
        require_memory_of_weights(vocabulary_size, options, where)
    model, family = make_model(vocabulary_size, options, made_on)
    if options.train != "lora":
        return model, family, None
    adapted = adapt(model, family, named, options)
    return adapted.model, family, adapted


def _splits(shards: Shards, options: PretrainOptions, context: int) -> tuple[Batches, Split]:
    """What is trained on, and what is validated on."""
    batches = Batches(shards.split("train"), context, options.seed, align_documents=options.align_documents)
    validation = shards.split("validation")
    if len(validation) < 2:
        raise DataError(f"--validation: wanted at least 2 tokens to validate on, got {len(validation)}; raise it")
    return batches, validation


def _stop_tokens(tokenizer: Tokenizer, options: PretrainOptions) -> tuple[int, ...] | None:
    """What ends a generated text: BOS, and what ends those of --from."""
    return None if options.start is None else (tokenizer.bos_id, *(stop_tokens_of(options.start) or ()))


def _require_same_data(manifest: str, model: Transformer, processes: Processes) -> None:
    if processes.world > 1:
        total = sum(float(parameter.detach().sum()) for parameter in model.parameters())
        processes.require_same({"the shards of DATA": manifest, "the model's weights": total})


def _place(
    model: Transformer, decided: Decided, where: torch.device, parallel: ParallelOptions, processes: Processes
) -> None:
    """Move the model, or this process's part of it, to the device it is trained on."""
    model.compute_dtype = getattr(torch, decided.dtype)
    model.checkpoint_activations = processes.from_first(
        checkpoint_activations(decided, model, where, parallel, processes)
    )
    if decide_sharding(parallel.shard, model, model.config.width, where, processes):
        dtype = model.compute_dtype or torch.float32
        # Gemma's norms add 1 to their weights in float32: these are put together as they are.
        shard_by_block(model, model.blocks, processes, where, torch.float32 if model.config.norm_offset else dtype)
    else:
        model.to(where)


def _objective(tokenizer: Tokenizer, options: PretrainOptions, windows: Windows) -> PretrainingObjective:
    if options.objective == "next":
        return NextToken(windows)
    if tokenizer.mask is None:
        raise OptionError(
            "--objective masked: wanted shards whose tokenizer has a [MASK] token, got one without: tokenize with"
            " --mask, or give the text itself"
        )
    special = SpecialTokens(tokenizer.bos_id, tokenizer.closing, tokenizer.mask.id)
    return MaskedToken(windows, special, tokenizer.vocabulary_size)


def _begin(run: Run, asked: dict[str, Any], shards: Shards) -> None:
    """Write what a new run's folder has before the first step; run.toml last, by which a run is known."""
    lm, adapted = run.language_model, run.adapted
    lm.tokenizer.save(run.out)
    if adapted is None:
        save_config(run.model, lm.family, run.out, lm.tokenizer.bos_id, lm.stop_tokens)
    else:
        adapted.save_settings(run.out, lm.tokenizer, lm.stop_tokens)
    write_record(run.out, asked, run.decided, shards, None if adapted is None else adapted.base_hash)
