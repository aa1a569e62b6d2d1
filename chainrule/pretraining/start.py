"""Opens a pretraining run: checks its options, makes it or resumes it. Knows no terminal."""

import dataclasses
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor

from chainrule import machine
from chainrule.corpus.batches import Batches
from chainrule.corpus.write import CorpusOptions, Shards, write_shards
from chainrule.errors import DataError, OptionError
from chainrule.language_model import make_language_model, stop_tokens_of
from chainrule.machine import require_memory
from chainrule.model.formats.checkpoint import described_by, load_weights, read_config, refuse_classifier, save_config
from chainrule.model.formats.tensors import Tensors
from chainrule.model.transformer import Transformer
from chainrule.pretraining.adapted import adapt
from chainrule.pretraining.decide import (
    Log,
    checkpoint_activations,
    decide,
    make_config,
    make_model,
    make_optimizer,
    measure,
)
from chainrule.pretraining.options import PretrainOptions, shape_of, windows_per_step
from chainrule.pretraining.run import Decided, Run
from chainrule.storage.files import sha256, sweep, write_text
from chainrule.storage.hub import model_directory
from chainrule.storage.remote import without_secrets
from chainrule.storage.run_folder import find_record, read_record, require_same, unaltered
from chainrule.tokens.tokenizer import Tokenizer, load_tokenizer
from chainrule.training.checkpoints import Keeping, resumed
from chainrule.training.footprint import of_weights, require_step
from chainrule.training.objectives import MaskedToken, NextToken, SpecialTokens, Windows
from chainrule.training.parallel import ALONE, Processes
from chainrule.training.parallel_options import ParallelOptions
from chainrule.training.sharding import decide_sharding, shard_by_block

# Of a run that was killed before run.toml was written.
_WRITTEN_FIRST = ("data", "tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json")


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
    asked = _asked(data, options, corpus, device, dtype)
    named = str(options.start)
    processes.require_same(_named(asked, parallel))
    if options.train == "lora" and processes.world > 1:
        raise OptionError(
            f"--train lora: wanted one process, as an adapter is small, got {processes.world}; start it"
            " without torchrun"
        )
    with processes.together():
        stored = _stored(out, asked)
        if options.start is not None:  # a folder or a name on the Hub; the model's own tokenizer is the default
            options = dataclasses.replace(options, start=model_directory(options.start))
            if corpus.tokenizer == CorpusOptions.tokenizer:
                corpus = dataclasses.replace(corpus, tokenizer=str(options.start))
        _check(data, options, corpus, processes)
        if processes.first:
            for folder in (out, out / "training"):
                sweep(folder)
            _write_shards(data, out, options, corpus, log)
    with processes.together():
        shards = _shards(data, out, options)
        manifest = _checked(shards, out, options, stored, processes)
        tokenizer, where = shards.tokenizer, machine.device(device)
        # Parts of it go to the devices of several processes.
        made_on = where if processes.world == 1 else torch.device("cpu")
        if options.start is None and processes.world == 1:
            _require_memory_of_weights(tokenizer.vocabulary_size, options, where)
        model, family = make_model(tokenizer.vocabulary_size, options, made_on)
        adapted = adapt(model, family, named, options) if options.train == "lora" else None
        if adapted is not None:
            model = adapted.model
            if stored is not None:
                adapted.require_same_base(out, stored)
        batches = Batches(
            shards.split("train"), model.config.context, options.seed, align_documents=options.align_documents
        )
        validation = shards.split("validation")
        if len(validation) < 2:
            raise DataError(f"--validation: wanted at least 2 tokens to validate on, got {len(validation)}; raise it")
        decided = _decided_before(out, stored, processes) or decide(model, where, options, dtype, processes, parallel)
    decided = Decided(**processes.from_first(dataclasses.asdict(decided)))
    checkpoint = resumed(out / "training", processes)
    objective = _objective(tokenizer, options, Windows(batches, decided.rows, decided.micro_rows, where.type))
    with processes.together():
        if checkpoint is not None:
            if adapted is None:
                load_weights(model, family, Tensors(checkpoint.path), made_on)
            else:
                model.load_state_dict(checkpoint.tensors("model"), strict=False)
    _require_same_data(manifest, model, processes)
    model.compute_dtype = getattr(torch, decided.dtype)
    model.checkpoint_activations = processes.from_first(
        checkpoint_activations(decided, model, where, parallel, processes)
    )
    _place(model, where, parallel, processes)
    if processes.world == 1:
        _require_memory(model, options, decided)
    if stored is None:
        decided = measure(decided, model, objective, len(validation), options, started, log, processes)
        decided = dataclasses.replace(decided, micro_rows=objective.windows.micro_batch_size)  # memory may have run out

    stop_tokens = None if options.start is None else (tokenizer.bos_id, *(stop_tokens_of(options.start) or ()))
    language_model = make_language_model(model, tokenizer, family, stop_tokens)
    run = Run(
        out,
        language_model,
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


def _checked(
    shards: Shards, out: Path, options: PretrainOptions, stored: dict[str, Any] | None, processes: Processes
) -> str:
    """The hash of the shards' manifest. FolderError where the run was begun with others, DataError for altered ones."""
    manifest = sha256(shards.directory / "manifest.json")
    if stored is not None:
        before, called = {"shards": stored["data"]["manifest"]}, {"shards": f"the shards in {shards.directory}"}
        require_same(out, before, {"shards": manifest}, called)
    if options.verify:
        shards.verify()
    elif stored is not None and processes.first:
        shards.verify(unchanged=stored["data"].get("files"))
    return manifest


def _named(asked: dict[str, Any], parallel: ParallelOptions) -> dict[str, Any]:
    """What must be the same in all processes, as it is typed."""
    options = {f"--{name.replace('_', '-')}": value for name, value in asked.items() if name != "data"}
    versions = {f"the version of {name}": version(name) for name in ("chainrule", "torch")}
    return {"DATA": asked["data"], **options, "--shard": parallel.shard, "--wait": parallel.wait,
            "--checkpoint-activations": parallel.checkpoint_activations, **versions}  # fmt: skip


def _decided_before(out: Path, stored: dict[str, Any] | None, processes: Processes) -> Decided | None:
    """What was decided when the run was begun; its threads are divided among the processes."""
    if stored is None:
        return None
    with unaltered(out / "run.toml", "the record of a run"):
        decided = Decided(**stored["decided"])
    torch.set_num_threads(max(1, decided.threads // processes.world))
    return decided


def _require_same_data(manifest: str, model: Transformer, processes: Processes) -> None:
    if processes.world > 1:
        total = sum(float(parameter.detach().sum()) for parameter in model.parameters())
        processes.require_same({"the shards of DATA": manifest, "the model's weights": total})


def _require_memory_of_weights(vocabulary_size: int, options: PretrainOptions, device: torch.device) -> None:
    """OptionError where a model of random weights cannot be made and trained; to be called before it is made."""
    with torch.device("meta"):
        model = Transformer(make_config(vocabulary_size, options))
    sizes = of_weights(_trained(model), moments=_moments(options), copied=True)
    require_memory("pretrain", sizes, device, _takes_less(options))


def _require_memory(model: Transformer, options: PretrainOptions, decided: Decided) -> None:
    """OptionError where a step cannot be made with the memory that is free."""

    def loss(length: int) -> Tensor:
        tokens = torch.zeros(1, length, dtype=torch.long, device=model.device)
        features = model(tokens, output="features", last=torch.tensor([length - 1], device=model.device))
        return model(features=features, targets=tokens)

    weights, context = of_weights(_trained(model), moments=_moments(options)), model.config.context
    require_step("pretrain", weights, loss, model, decided.micro_rows * context, context, _takes_less(options))


def _trained(model: Transformer) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _moments(options: PretrainOptions) -> int:
    """That the optimizer keeps of most weights."""
    return 1 if options.train == "full" and options.optimizer_name == "muon" else 2


def _takes_less(options: PretrainOptions) -> str:
    """What takes less memory."""
    if options.start is None:
        return "take a smaller --depth or --width, or a shorter --context"
    if options.train == "full":
        return "add --train lora, or start from a smaller model"
    kept = "keep the model quantised (--quantize int8), or " if options.quantize == "none" else ""
    return f"{kept}start from a smaller model"


def _place(model: Transformer, where: torch.device, parallel: ParallelOptions, processes: Processes) -> None:
    """Move the model, or this process's part of it, to the device it is trained on."""
    if decide_sharding(parallel.shard, model, model.config.width, where, processes):
        dtype = model.compute_dtype or torch.float32
        # Gemma's norms add 1 to their weights in float32: these are put together as they are.
        shard_by_block(model, model.blocks, processes, where, torch.float32 if model.config.norm_offset else dtype)
    else:
        model.to(where)


def _check(data: Sequence[str], options: PretrainOptions, corpus: CorpusOptions, processes: Processes) -> None:
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
        if config.causal != (options.objective == "next"):
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


def _is_shards(data: Sequence[str]) -> bool:
    return len(data) == 1 and (Path(data[0]) / "manifest.json").is_file()


def _objective(tokenizer: Tokenizer, options: PretrainOptions, windows: Windows) -> NextToken | MaskedToken:
    if options.objective == "next":
        return NextToken(windows)
    if tokenizer.mask is None:
        raise OptionError(
            "--objective masked: wanted shards whose tokenizer has a [MASK] token, got one without: tokenize with"
            " --mask, or give the text itself"
        )
    special = SpecialTokens(tokenizer.bos_id, tokenizer.closing, tokenizer.mask.id)
    return MaskedToken(windows, special, tokenizer.vocabulary_size)


def _asked(
    data: Sequence[str], options: PretrainOptions, corpus: CorpusOptions, device: str, dtype: str
) -> dict[str, Any]:
    """The options as run.toml records them, without those that do not change the result."""
    asked = {
        "data": [without_secrets(name) for name in data],
        **dataclasses.asdict(options),
        **dataclasses.asdict(corpus),
        "device": device,
        "dtype": dtype,
    }
    asked["from"] = asked.pop("start")
    asked["optimizer"] = options.optimizer_name
    for name in ("workers", "verify", "keep", "mask"):  # these change nothing; mask follows from the objective
        del asked[name]
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in asked.items() if value is not None
    }


def _stored(out: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """What run.toml records, if `out` holds a run of the same options; None if it holds none."""
    path = find_record(out, ("run.toml",), "a run", before=_WRITTEN_FIRST)
    if path is None:
        return None
    stored = read_record(path, "a run", wanted=("options", "decided", "data"))
    defaults = dataclasses.asdict(PretrainOptions())  # of options that are newer than the run
    before = {name: default for name, default in defaults.items() if name in asked} | stored["options"]
    require_same(out, before, asked, called={"data": "DATA"})
    return stored


def _directory(data: Sequence[str], out: Path) -> Path:
    return Path(data[0]) if _is_shards(data) else out / "data"


def _write_shards(data: Sequence[str], out: Path, options: PretrainOptions, corpus: CorpusOptions, log: Log) -> None:
    """Tokenize `data` into out/data, unless it is shards."""
    if not _is_shards(data):
        made = dataclasses.replace(corpus, mask=options.objective == "masked")
        write_shards(data, _directory(data, out), made, log=log)


def _shards(data: Sequence[str], out: Path, options: PretrainOptions) -> Shards:
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


def _begin(run: Run, asked: dict[str, Any], shards: Shards) -> None:
    """Write what a new run's folder has before the first step; run.toml last, by which a run is known."""
    lm, adapted = run.language_model, run.adapted
    lm.tokenizer.save(run.out)
    if adapted is None:
        save_config(run.model, lm.family, run.out, lm.tokenizer.bos_id, lm.stop_tokens)
    else:
        adapted.save_settings(run.out, lm.tokenizer, lm.stop_tokens)
    _write_record(run.out, asked, run.decided, shards, None if adapted is None else adapted.base_hash)


def _write_record(out: Path, asked: dict[str, Any], decided: Decided, shards: Shards, base: str | None = None) -> None:
    """Write run.toml: everything that is needed to do it again. `base`: the hash of a frozen model."""
    record: dict[str, Any] = {
        "options": asked,
        "decided": dataclasses.asdict(decided),
        "data": {
            "manifest": sha256(shards.directory / "manifest.json"),
            "tokens": len(shards.split("train")),
            "files": shards.sizes_and_times(),
        },
        "versions": {name: version(name) for name in ("chainrule", "torch", "tokenizers", "tiktoken")},
    }
    if base is not None:
        record["base"] = base
    write_text(out / "run.toml", tomli_w.dumps(record))
