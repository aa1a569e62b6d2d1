"""Loads what is to be served, by name: language models, adapters over one base, classifiers, tasks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chainrule import machine
from chainrule.errors import OptionError
from chainrule.finetuning.classifier import Classifier, load_classifier
from chainrule.generation.engine import Engine
from chainrule.language_model import LanguageModel, Pretrained, load, require_causal
from chainrule.masked_language_model import MaskedLanguageModel
from chainrule.model.formats.adapter import load_beside
from chainrule.model.formats.adapter_files import base_directory, is_adapter, read_adapter
from chainrule.model.formats.checkpoint import is_classifier, read_config
from chainrule.model.formats.load_quantised import Quantize
from chainrule.model.prefix_cache import PrefixCache
from chainrule.model.transformer import Transformer
from chainrule.serving.model_thread import ModelThread
from chainrule.serving.served import Served, ServedClassifier, ServedMasked, ServedModel
from chainrule.storage.hub import model_directory
from chainrule.tasks.examples import Task
from chainrule.tokens.tokenizer import load_tokenizer

_COLUMNS = 1024  # tokens of a sequence that the memory is planned for
_PART = 0.25  # of the free memory, at most


@dataclass(frozen=True)
class Limits:
    """How much a model does at once."""

    batch: int = 32  # sequences
    cache_tokens: int | None = None  # whose keys and values are in memory; None: what a batch needs
    queue: int = 1024  # sequences that wait


def load_served(
    models: Sequence[str],
    tasks: Sequence[Path],
    runs: Path | None,
    limits: Limits,
    *,
    device: str = "auto",
    dtype: str = "auto",
    bos: str | None = None,
    quantize: Quantize = "none",
    died: Callable[[], None] | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Served:
    """Load everything; `log` gets a line about each. `died` is called where a model's thread ends by a fault.
    `quantize`: as for `load`; with "auto" all weights are whole where adapters are served, but for the base
    of one that was trained beside quantised ones.

    Raises OptionError for two of the same name, and what `load` and `load_classifier` raise.
    """
    paths = named(models)
    quantize = _for_adapters(paths.values(), quantize)
    tasks_by_name = _load_tasks(tasks)
    lms: dict[str, LanguageModel] = {}
    masked: dict[str, MaskedLanguageModel] = {}
    classifiers: dict[str, Classifier] = {}
    # By their directories, and how they are quantised: an adapter's base is loaded once.
    in_memory: dict[tuple[Path, Quantize], Pretrained] = {}
    for name, path in paths.items():
        if _is_classifier(path):
            classifiers[name] = load_classifier(path, device=device, dtype=dtype)
        else:
            lm = _pretrained(path, in_memory, device, dtype, bos, quantize)
            lm.model.config.check_language_head()
            if isinstance(lm, MaskedLanguageModel):
                masked[name] = lm
            else:
                lms[name] = lm
    machine.release_threads()  # loading has used this thread's; from here on the models' threads compute
    for name in masked:
        log(f"{name}: {masked[name].family}, a masked model: embeddings, tasks, and the page")
    for name, classifier in classifiers.items():
        told = f"{len(classifier.labels)} labels" if classifier.labels else "a number"
        log(f"{name}: {classifier.family}, a classifier of {told}")
    return Served(
        {name: serve_model(name, lm, limits, died=died, log=log) for name, lm in lms.items()},
        {
            name: ServedClassifier(name, classifier, ModelThread(name, waiting=limits.queue, died=died))
            for name, classifier in classifiers.items()
        },
        tasks_by_name,
        runs,
        masked={
            name: ServedMasked(name, lm, ModelThread(name, waiting=limits.queue, died=died))
            for name, lm in masked.items()
        },
    )


def _for_adapters(paths: Iterable[str], quantize: Quantize) -> Quantize:
    """How models are kept where some of them are adapters, which stand beside a base that others may name too.

    Raises OptionError for bits that an adapter was not trained beside: its base would have other weights.
    """
    adapters = [(path, read_adapter(found)) for path in paths if is_adapter(found := model_directory(path))]
    for path, adapter in adapters:
        exact = "base_sha256" in adapter.extra and not adapter.is_classifier
        if quantize in ("int8", "int4") and exact and adapter.quantized != quantize:
            raise OptionError(
                f"--quantize: wanted adapters that were trained beside {quantize} weights, got {path};"
                f" leave {quantize} out"
            )
    return "none" if quantize == "auto" and adapters else quantize


def _load_tasks(files: Sequence[Path]) -> dict[str, Task]:
    """The tasks of files, by the files' names; OptionError for two of the same name."""
    found: dict[str, Task] = {}
    for file in files:
        if file.stem in found:
            raise OptionError(f"--task: wanted files of different names, got {file.stem} twice; rename one")
        if file.suffix != ".toml":
            raise OptionError(
                f"--task: wanted a task file (.toml), got {file}; chainrule task {file} --out FILE.toml writes one"
            )
        found[file.stem] = Task.load(str(file))
    return found


def _is_classifier(path: str) -> bool:
    directory = model_directory(path)
    if is_adapter(directory):
        return read_adapter(directory).is_classifier
    return is_classifier(read_config(directory))


def _pretrained(
    path: str,
    in_memory: dict[tuple[Path, Quantize], Pretrained],
    device: str,
    dtype: str,
    bos: str | None,
    quantize: Quantize,
) -> Pretrained:
    """The language model of a path; an adapter beside its base, which `in_memory` has or gets."""
    directory = model_directory(path).resolve()
    if not is_adapter(directory):
        key = directory, quantize
        if key not in in_memory:
            in_memory[key] = load(path, device=device, dtype=dtype, bos=bos, quantize=quantize)
        return in_memory[key]
    adapter = read_adapter(directory)
    base_path = base_directory(directory, adapter)
    kept: Quantize = adapter.quantized if adapter.quantized in ("auto", "int8", "int4") else quantize  # type: ignore[assignment]
    base = require_causal(
        _pretrained(str(base_path), in_memory, device, dtype, bos, kept), "serve", "merge the adapter into it"
    )
    model = load_beside(directory, adapter, base.model, base.family)
    tokenizer = load_tokenizer(directory, bos) if (directory / "tokenizer.json").is_file() else base.tokenizer
    return LanguageModel(model, tokenizer, base.family, base.stop_tokens, base.generation)


def named(models: Sequence[str]) -> Mapping[str, str]:
    """Name -> path of NAME=MODEL, or of a path alone, whose name is its last part. OptionError for a name twice."""
    found: dict[str, str] = {}
    for each in models:
        name, equals, path = each.partition("=")
        if not equals or "/" in name or Path(each).exists():
            name, path = Path(each.split(":")[-1]).name or Path(each).resolve().name, each
        if not name or not path or name in found:
            raise OptionError(f"serve: wanted models of different names, got {each!r}; give NAME=MODEL")
        found[name] = path
    return found


def serve_model(
    name: str,
    lm: LanguageModel,
    limits: Limits = Limits(),
    *,
    died: Callable[[], None] | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> ServedModel:
    """A language model with its engine and thread. Two thirds of the cache's tokens are for the sequences that run, the
    rest for prefixes of earlier ones."""
    model, device = lm.model, lm.device
    each = token_bytes(model)
    tokens = limits.cache_tokens
    if tokens is None:
        fit = machine.free_memory(device) * _PART / each
        tokens = int(min(limits.batch * min(model.config.context, _COLUMNS) * 3 // 2, fit))
    kept = tokens // 3
    config, dtype = model.config, model.compute_dtype or model.dtype
    known = PrefixCache(kept, config.layers, config.key_value_heads, config.head_width, dtype, device)
    at_once = machine.tokens_at_once("prefill", device) // (4 if device.type == "cpu" else 2)
    engine = Engine(
        model, batch_size=limits.batch, cache_tokens=max(1, tokens - kept), prefill_chunk=at_once, known=known
    )
    log(
        f"{name}: {lm.family}, context {config.context}; keys and values of {tokens:,} tokens, at most"
        f" {tokens * each / 2**20:,.0f} MiB, {kept:,} of them prefixes of earlier prompts"
    )
    return ServedModel(name, lm, ModelThread(name, engine, waiting=limits.queue, died=died), at_once)


def token_bytes(model: Transformer) -> int:
    """How much memory the keys and values of a token take."""
    config = model.config
    return (
        2 * config.layers * config.key_value_heads * config.head_width * (model.compute_dtype or model.dtype).itemsize
    )
