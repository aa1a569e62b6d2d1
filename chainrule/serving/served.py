"""What is served, by name: language models, classifiers, tasks. Knows no HTTP."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

from chainrule.finetuning.classifier import Classifier
from chainrule.language_model import LanguageModel
from chainrule.masked_language_model import MaskedLanguageModel
from chainrule.serving.model_thread import ModelThread
from chainrule.serving.prompt_scores import PromptScores, score_prompts
from chainrule.serving.requests import RequestError
from chainrule.tasks.examples import Task

T = TypeVar("T")
SECONDS = 600.0  # the most that a request may take


@dataclass(frozen=True)
class ServedModel:
    """A language model and the thread on which everything that uses it runs."""

    name: str
    lm: LanguageModel
    thread: ModelThread
    at_once: int = 128  # tokens that one call of the model processes while others wait for their next one

    @overload
    async def run(self, function: Callable[[], Generator[None, None, T]]) -> T: ...
    @overload
    async def run(self, function: Callable[[], T]) -> T: ...
    async def run(self, function: Callable[[], Any]) -> Any:
        """The value of a function that uses the model, called between two steps of generation; what it raises is raised
        here. With `yield` it gives way to the others, and its value is what it returns. One that has not begun when its
        client leaves is never called."""
        return await self.thread.run(function)

    async def score(self, prompts: Sequence[Sequence[int]], top: int) -> list[PromptScores]:
        """The log-probabilities of the prompts' tokens, and of the `top` most probable ones at each."""
        known = None if self.thread.engine is None else self.thread.engine.known
        return await self.run(partial(score_prompts, self.lm.model, prompts, top, self.at_once, known))


@dataclass(frozen=True)
class ServedMasked:
    """A masked language model and its thread."""

    name: str
    lm: MaskedLanguageModel
    thread: ModelThread

    async def run(self, function: Callable[[], Any]) -> Any:
        """As `ServedModel.run`."""
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
    seconds: float = SECONDS  # the most that a request may take
    masked: Mapping[str, ServedMasked] = field(default_factory=dict)

    def model(self, name: str | None) -> ServedModel:
        """The language model of that name, the first where none is given; RequestError (404) for an unknown one, and
        (400) for a masked one, which goes on from no text."""
        if name in self.masked or (name is None and not self.models and self.masked):
            raise RequestError(
                "model: wanted a model that goes on from a text, got a masked one, which fills blanks"
                f" ({name or next(iter(self.masked))!r}); it has /v1/embeddings, /classify with a task, and the page",
                "model",
            )
        found = next(iter(self.models.values()), None) if name is None else self.models.get(name)
        if found is None:
            raise self._unknown(name, self.models)
        return found

    def pretrained(self, name: str | None) -> ServedModel | ServedMasked:
        """The causal or masked language model of that name, as `model`."""
        if name is None and not self.models:
            name = next(iter(self.masked), None)
        masked = None if name is None else self.masked.get(name)
        return masked or self.model(name)

    def classifier(self, name: str | None) -> ServedClassifier:
        """The classifier of that name, as `model`."""
        found = next(iter(self.classifiers.values()), None) if name is None else self.classifiers.get(name)
        if found is None:
            raise self._unknown(name, self.classifiers)
        return found

    @property
    def threads(self) -> Mapping[str, ModelThread]:
        """The thread of each model and classifier, by name."""
        models = {name: each.thread for name, each in self.models.items()}
        models |= {name: each.thread for name, each in self.masked.items()}
        return models | {name: each.thread for name, each in self.classifiers.items()}

    @property
    def alive(self) -> bool:
        """Whether all threads work."""
        return all(thread.dead is None for thread in self.threads.values())

    def _unknown(self, name: str | None, known: Mapping[str, object]) -> RequestError:
        wanted = f"one of {', '.join(map(repr, known))}" if known else "nothing: none of this kind is served"
        return RequestError(f"model: wanted {wanted}, got {name!r}", "model", status=404, code="model_not_found")
