"""What is served, by name: language models, classifiers, tasks. Knows no HTTP."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from chainrule.finetuning.classifier import Classifier
from chainrule.language_model import LanguageModel
from chainrule.serving.model_thread import ModelThread
from chainrule.tasks.examples import Task

T = TypeVar("T")


@dataclass(frozen=True)
class ServedModel:
    """A language model and the thread on which everything that uses it runs."""

    name: str
    lm: LanguageModel
    thread: ModelThread

    async def run(self, function: Callable[[], T]) -> T:
        """The value of a function that uses the model, called between two steps of generation."""
        return await self.thread.run(function)


@dataclass(frozen=True)
class ServedClassifier:
    """A finetuned classifier and its thread."""

    name: str
    classifier: Classifier
    thread: ModelThread

    async def run(self, function: Callable[[], T]) -> T:
        """The value of a function that uses the classifier."""
        return await self.thread.run(function)


@dataclass(frozen=True)
class Served:
    """All that requests can name."""

    models: Mapping[str, ServedModel]
    classifiers: Mapping[str, ServedClassifier] = field(default_factory=dict)
    tasks: Mapping[str, Task] = field(default_factory=dict)  # by the name of their file without its suffix
    runs: Path | None = None  # a folder of runs and reports that the page shows
