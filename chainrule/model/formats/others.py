"""What a path is that is no model's directory, and what to do about it, in words. Reads no weights."""

import json
from pathlib import Path

_PICKLES = ("bin", "pt", "pth", "ckpt")
_DATA = (".txt", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".gz")
CONVERT = (
    "only a pickle, which is never read: where you trust it, convert it with transformers'"
    " AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)"
)


def what_it_is(path: Path) -> str:
    """For a `path` without a config.json: what was found there, and the way to a model."""
    if not path.exists():
        return "found no config.json, as there is no such directory; correct the name"
    if path.is_file():
        return _file(path)
    adapter = path / "adapter_config.json"
    if adapter.is_file():
        return (
            f"found a PEFT adapter, which has only what was added to {_base(adapter)}; merge them with"
            f" chainrule export {path} --to huggingface"
        )
    if any(path.glob("*.gguf")):
        return f"found GGUF files ({next(iter(sorted(path.glob('*.gguf')))).name}, …); name one of them"
    if (path / "manifest.json").is_file():
        return f"found shards that tokenize wrote; train a model on them: chainrule pretrain {path} --out RUN"
    if (path / "run.toml").is_file():
        return "found an unfinished run; give its command again to continue it"
    if holds_pickle(path):
        return f"found no config.json, and {CONVERT}"
    inside = sorted(entry.parent for entry in path.glob("*/config.json"))
    if inside:
        return f"found no config.json, but there is one in {inside[0]}; name that"
    return "found no config.json"


def holds_pickle(directory: Path) -> bool:
    """Whether a directory has weights in a format that can run code when it is read."""
    return any(path for ending in _PICKLES for path in directory.glob(f"*.{ending}"))


def _file(path: Path) -> str:
    if path.suffix == ".safetensors":
        return "found a file of weights; name the directory that holds it and its config.json"
    if path.suffix == ".toml":
        return "found a file, perhaps a task; the model is named first, then the task"
    if path.suffix in _DATA:
        return (
            "found a file of text or rows; chainrule pretrain trains a model on text, and a task's rows follow the"
            " model's name"
        )
    if path.suffix.removeprefix(".") in _PICKLES:
        return f"found {CONVERT}"
    return "found a file; name the directory that holds the model"


def _base(adapter: Path) -> str:
    """The model that an adapter was trained on."""
    try:
        return str(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError):
        return "another model"
