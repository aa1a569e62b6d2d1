"""What a model directory has, without computing with it. Knows files and the tokenizer."""

import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chainrule.errors import ChainruleError
from chainrule.model.formats.adapter_files import Adapter, base_directory, is_adapter, read_adapter
from chainrule.model.formats.checkpoint import described, is_classifier, open_tensors, read_config, with_tensors
from chainrule.model.formats.classifier import classes, kind_of
from chainrule.storage.hub import model_directory, tensor_shapes
from chainrule.storage.run_folder import unaltered
from chainrule.tokens.tokenizer import Tokenizer, load_tokenizer

COMMON_WORDS = (
    "the of and to in a is that for it was on are as with his they at be this from have or by one had not but what all"
    " were when we there can an your which their said if do will each about how up out them then she many some so these"
    " would other into has more her two like him see time could no make than first been its who now people my made over"
    " did down only way find use may water long little very after words called just where most know"
).split()


def inspect_model(model: str | Path) -> dict[str, Any]:
    """Family, sizes, tokenizer, and the training that run.toml records; ChainruleError where there is no model.

    Of the weights the files' headers are read, on the Hub too; an adapter's own are read whole, being small.
    """
    directory = model_directory(model, weights=False)
    if is_adapter(directory):
        return _adapter(model_directory(model))
    fields = read_config(directory)
    config, family = described(directory, fields)
    on_hub = directory.is_dir() and directory != Path(model) and not any(directory.glob("*.safetensors"))
    # A snapshot's directory is named by its commit.
    shapes = tensor_shapes(str(model).partition("@")[0], directory.name) if on_hub else open_tensors(directory).shapes
    config = with_tensors(config, family, fields, shapes)
    tokenizer = load_tokenizer(directory)
    single = sum(_is_one_token(tokenizer, " " + word) for word in COMMON_WORDS)
    found: dict[str, Any] = {
        "family": family,
        "parameters": sum(map(math.prod, shapes.values())),
        "layers": config.layers,
        "width": config.width,
        "heads": config.heads,
        "key_value_heads": config.key_value_heads,
        "context": config.context,
        "vocabulary_size": config.vocabulary_size,
        "bos": tokenizer.bos,
        "bos_id": tokenizer.bos_id,
        "bos_reason": tokenizer.bos_reason,
        "common_words_of_one_token": f"{single} of {len(COMMON_WORDS)}",
    }
    if is_classifier(fields):
        found |= _learned(fields.get("problem_type"), directory, lambda least: classes(fields, directory, least))
    elif not config.language_head:
        found["language_model_head"] = "none: features, and finetuning"
    return found | _training(directory / "run.toml", config.context)


def _learned(problem_type: Any, directory: Path, outputs: Callable[[int], tuple[str, ...]]) -> dict[str, str]:
    """What a classifier tells. `outputs`: the names of its outputs, which are at least so many."""
    kind = kind_of(problem_type, directory)
    if kind == "regression":
        return {"number": ", ".join(outputs(1))}
    several = {"classes_of_a_text": "several at once, or none"} if kind == "multilabel" else {}
    return {"classes": ", ".join(outputs(2 if kind == "classification" else 1)), **several}


def _base(directory: Path, adapter: Adapter) -> dict[str, Any]:
    """What is known of an adapter's base; of one on the Hub that needs its name, not its snapshot's folder."""
    base_directory(directory, adapter, weights=False)  # for its errors
    return inspect_model(adapter.base)


def _adapter(directory: Path) -> dict[str, Any]:
    """What an adapter adds, and its base."""
    adapter = read_adapter(directory)
    found: dict[str, Any] = {
        **_base(directory, adapter),
        "adapter_of": adapter.base,
        "adapter_rank": adapter.fields.get("r"),
        "adapter_modules": ", ".join(adapter.modules),
        "adapter_parameters": sum(tensor.numel() for tensor in adapter.tensors.values()),
    }
    if adapter.is_classifier:
        found |= _learned(adapter.extra.get("problem_type"), directory, lambda least: adapter.labels)
    return found | _training(directory / "run.toml", found["context"])


def _training(record: Path, context: int) -> dict[str, Any]:
    """What a run.toml records of pretraining or of finetuning; nothing where there is none."""
    if not record.is_file():
        return {}
    with unaltered(record, "the record of a run"):
        return _recorded(tomllib.loads(record.read_text(encoding="utf-8")), context)


def _recorded(run: dict[str, Any], context: int) -> dict[str, Any]:
    if "finetune" in run:
        asked = run["finetune"]
        how = asked["train"] + (f", by {asked['by']}" if "by" in asked else "")
        return {"finetuned": how, "labels": asked.get("labels", "all"), "seed": asked["seed"]}
    return {
        "trained_on": f"{', '.join(run['options']['data'])} ({run['data']['tokens']} tokens)",
        "trained_for": f"{run['decided']['steps']} steps of {run['decided']['rows'] * context} tokens",
        "optimizer": run["options"]["optimizer"],
        "seed": run["options"]["seed"],
    }


def _is_one_token(tokenizer: Tokenizer, text: str) -> bool:
    try:
        return len(tokenizer.encode(text)) == 1
    except ChainruleError:  # a character that a vocabulary of characters lacks
        return False
