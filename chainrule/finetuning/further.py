"""A classifier finetuned further: what it starts from, and which tasks go on from it. Knows labels and files."""

import dataclasses
import hashlib
from pathlib import Path

from chainrule.errors import DataError, ModelError, OptionError
from chainrule.finetuning.classifier import Classifier
from chainrule.finetuning.options import FinetuneOptions
from chainrule.language_model import Pretrained, make_language_model
from chainrule.model.formats.adapter_files import is_adapter, read_adapter
from chainrule.model.formats.checkpoint import is_classifier, read_config
from chainrule.storage.hub import model_directory
from chainrule.tasks.examples import Task

GOING_ON = 0.1  # of the learning rates: as in pretraining, what was learned before is to stay


def holds_classifier(path: str | Path) -> bool:
    """Whether a path is that of a classifier, whole or an adapter."""
    directory = model_directory(path)
    if is_adapter(directory):
        return read_adapter(directory).is_classifier
    try:
        return is_classifier(read_config(directory))
    except ModelError:  # whoever loads it says so
        return False


def model_of(classifier: Classifier) -> Pretrained:
    """The classifier's model without its head; an adapter is merged into it."""
    features = classifier.whole().features
    return make_language_model(features.model, features.tokenizer, classifier.family)


def going_on(classifier: Classifier, task: Task, options: FinetuneOptions) -> Task:
    """The task with the classifier's labels, in their order. Raises OptionError for another way of training than full,
    and DataError for a task of other columns, of another kind, or with labels that the classifier lacks."""
    if options.train != "full" or options.by != "head":
        asked = f"--by {options.by}" if options.by != "head" else f"--train {options.train}"
        raise OptionError(
            f"finetune: wanted --train full where MODEL is a classifier, whose weights and head go on, got {asked};"
            " take full, or give the language model that the classifier was made from"
        )
    for what, before, now in (
        ("of kind", classifier.kind, task.kind),
        ("with the columns", ", ".join(classifier.columns), ", ".join(task.text)),
    ):
        if before != now:
            raise DataError(f"TASK: wanted one {what} {before}, as MODEL reads, got {now}; give rows of the same form")
    others = sorted({*task.labels} - {*classifier.labels})
    if others:
        raise DataError(
            f"TASK: wanted labels that MODEL has ({_shown(classifier.labels)}), got {_shown(others)} too; finetune the"
            " language model that it was made from on rows with all labels"
        )
    return dataclasses.replace(task, labels=classifier.labels)


def head_hash(classifier: Classifier) -> str:
    """Of the head that a finetuning starts from."""
    parts = (classifier.w, *([] if classifier.bias is None else [classifier.bias]))
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()


def _shown(labels: "tuple[str, ...] | list[str]") -> str:
    named = ", ".join(map(repr, labels[:5]))
    return named if len(labels) <= 5 else f"{named} and {len(labels) - 5} more"
