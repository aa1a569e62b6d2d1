"""What a finetuning saved, whichever it is. Knows folders."""

from pathlib import Path

from chainrule.finetuning import classifier
from chainrule.finetuning.classifier import Classifier
from chainrule.prompting.files import is_prompted
from chainrule.prompting.load import load_prompted
from chainrule.prompting.prompted import Prompted
from chainrule.storage.hub import model_directory


def load_classifier(directory: str | Path, *, device: str = "auto", dtype: str = "auto") -> Classifier | Prompted:
    """The predictor that `finetune` saved: a classifier, or a language model with the prompt that asks it; an adapter
    is merged into its base, or stands beside a base that was quantised for the training.

    Raises ModelError for a directory that holds a language model alone, and for a classifier that was not saved by
    chainrule: its files do not say which columns it reads.
    """
    found = model_directory(directory)
    if is_prompted(found):
        return load_prompted(found, device=device, dtype=dtype)
    return classifier.load_classifier(directory, device=device, dtype=dtype)
