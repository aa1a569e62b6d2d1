"""Finetuning of the language model itself: on the label words of a task's prompt, or on free answers.

It starts from the zero-shot predictor, and gives a predictor that asks the trained model with the same prompt. Knows
rows, labels and files.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from chainrule import machine
from chainrule.errors import OptionError
from chainrule.finetuning.answers import answer_spans, fitting_spans
from chainrule.finetuning.folder import check_base, check_together, dtype_name, holds_weights, keep, open_together
from chainrule.finetuning.memory import Memory, packed_loss
from chainrule.finetuning.options import VALIDATED, FinetuneOptions
from chainrule.finetuning.recipes import SMALL_BATCH, SMOOTHING, Recipe, language_recipe
from chainrule.finetuning.trained import AllWeights, Trained, make_trainer, weights_of_classes
from chainrule.finetuning.words import word_texts
from chainrule.language_model import LanguageModel, Pretrained, make_language_model
from chainrule.model.formats.adapter import Base, adapter_parts, language_adapter
from chainrule.prompting.in_context import zero_shot
from chainrule.prompting.load import load_prompted
from chainrule.prompting.prompted import Prompted
from chainrule.tasks.examples import Examples, Task
from chainrule.tokens.tokenizer import Tokenizer
from chainrule.training.activations import tokens_in_memory
from chainrule.training.answers import Answers
from chainrule.training.epochs import Epochs
from chainrule.training.low_rank import ALPHA, RANK, LowRankMatrices, check_rank
from chainrule.training.objectives import Validation
from chainrule.training.optimizer import Group
from chainrule.training.parallel import ALONE, Processes
from chainrule.training.parallel_options import ParallelOptions
from chainrule.training.sharding import least_free_memory
from chainrule.training.spans import LONGEST_ROW, Span
from chainrule.training.trainer import Progress, Trainer
from chainrule.training.words import LabelWords


class LanguageFinetuning:
    """A finetuning of the language model, step by step: iterate `advance`, then call `predictor`.

    Of a task with classes on their label words, of a task of free answers on these. Parameters and errors as of
    `finetune`.
    """

    def __init__(
        self,
        lm: Pretrained,
        task: Task,
        options: FinetuneOptions,
        out: str | Path | None = None,
        processes: Processes = ALONE,
        parallel: ParallelOptions = ParallelOptions(),
    ) -> None:
        if options.train == "head":
            raise OptionError(
                "--train: wanted full or lora where the language model itself learns, got head; choose one of them"
            )
        if options.class_weights and task.kind != "classification":
            raise OptionError(
                "--class-weights: wanted a task with labels to choose from, got one of free answers; leave it out"
            )
        if parallel.shard == "on":
            raise OptionError(
                "--shard on: wanted off where the language model itself learns, which each process holds whole, got on;"
                " leave it out"
            )
        self.lm, self.task, self.options = lm, task, options
        self._processes, self._parallel = processes, parallel
        self.out = None if out is None else Path(out)
        if options.train == "lora":
            check_base(lm, self.out)
            check_rank(options.rank, lm.model)
        self._start = self._asking(lm)
        self._left_out, self._longest, self._one_line = 0, 0, True
        self._examples = examples = task.subset(options.labels, options.seed)
        check_together(min(len(examples), SMALL_BATCH), processes)
        decided = open_together(lm, self._start.reads, examples, options, self.out, processes, parallel)
        self.batch_size = 0
        self._trainer: Trainer | None = None
        if not self.finished:
            self._memory = Memory(options, lm.model, len(examples) >= VALIDATED, processes)
            if options.train == "full":
                self._memory.check_copies(sum(parameter.numel() for parameter in lm.model.parameters()))
            self._trained: Trained = self._what_is_trained()
            self._trained.transformer.compute_dtype = decided.precision
            self._trainer = self._prepare(examples, decided.precision)

    @property
    def finished(self) -> bool:
        """Whether `out` holds the predictor already."""
        return self._processes.from_first(holds_weights(self.out))

    def advance(self) -> Iterator[Progress]:
        """Make the steps that are left, yielding after each."""
        if self._trainer is not None:
            yield from self._trainer.steps()

    def shown(self, count: int) -> list[str]:
        """The first `count` training texts as tokens, those that are learned in brackets: an answer and its end, or the
        right label word; without those whose answer does not fit."""
        examples = self._examples.take(range(min(count, len(self._examples))))
        if not len(examples):
            return []
        asking = self._asking(self.lm)  # `_start` counts the texts that are learned
        if self.task.kind == "classification":
            texts = word_texts(asking, examples)
            spans = [options[number] for options, number in zip(texts.options, texts.classes, strict=True)]
        else:
            spans = fitting_spans(asking, examples)
        return [marked(self.lm.tokenizer, span, self.lm.model.config.causal) for span in spans]

    def save(self) -> None:
        """Write a checkpoint to `out`, from which the same finetuning continues."""
        if self._trainer is not None:
            self._trainer.save()

    def predictor(self) -> Prompted:
        """The predictor that asks the trained model; it is saved to `out`, where that was given."""
        if self._trainer is None:
            assert self.out is not None, "without a folder there is a training"
            return load_prompted(self.out, device=self.lm.device.type, dtype=dtype_name(self.lm.model.dtype))
        assert self._trainer.finished, "steps are left"
        made = self.current()
        keep(made, self.out, self._processes)
        return made

    def current(self) -> Prompted:
        """The predictor as far as it is trained; where there are validation texts, in its best state so far."""
        assert self._trainer is not None, "a finished one is loaded by `predictor`"
        lm, trained = self.lm, self._trained
        model = trained.result({name: tensor.clone() for name, tensor in self._trainer.result().items()})
        model.compute_dtype = lm.model.compute_dtype or lm.model.dtype
        generation: dict[str, Any] = lm.generation if isinstance(lm, LanguageModel) else {}
        tuned = make_language_model(model.eval(), lm.tokenizer, lm.family, lm.stop_tokens, generation)
        predictor = self._asking(tuned)
        predictor.cut, predictor.left_out = self._start.cut, self._left_out
        if predictor.generates:
            predictor.end_answers(self._longest, one_line=self._one_line)
        if isinstance(trained, LowRankMatrices) and lm.path is not None:
            predictor.adapter = language_adapter(
                Base(lm.model, lm.family, lm.path, lm.quantize), trained.adapters, trained.rank, ALPHA
            )
        return predictor

    def _asking(self, lm: Pretrained) -> Prompted:
        """The zero-shot predictor of a model for this task."""
        options = self.options
        return zero_shot(lm, self.task, normalise=options.normalise, longer=options.longer, chat=options.chat)

    def _what_is_trained(self) -> Trained:
        model = self.lm.model
        if self.options.train == "full":
            return AllWeights(model)
        parts = adapter_parts(model, self.lm.family)
        return LowRankMatrices(model, parts, self.options.rank or RANK, self.options.seed)

    def _prepare(self, examples: Examples, dtype: torch.dtype) -> Trainer:
        """The training; it goes on from what `out` holds."""
        validating = examples.take([])
        if len(examples) >= VALIDATED:
            examples, validating = self.task.split_validation(examples, self.options.seed)
        by_words = self.task.kind == "classification"
        objective, measure = (self._words if by_words else self._answers)(examples, validating, dtype)
        recipe = self._recipe(len(objective.texts))
        self.batch_size = recipe.batch_size
        transformer = self._trained.transformer
        at_once = objective.epochs.tokens_at_once
        longest = max(objective.longest, min(at_once, LONGEST_ROW) if transformer.config.causal else 0)  # packed
        self._memory.check_steps(transformer, partial(packed_loss, transformer), at_once, longest)
        groups = [Group([each for each in transformer.parameters() if each.requires_grad], recipe.rate)]
        folder = self.out and self.out / "training"
        return make_trainer(transformer, groups, objective, recipe.schedule, measure, folder, self._processes)

    def _recipe(self, n: int) -> Recipe:
        lora, options = self.options.train == "lora", self.options
        width = self.lm.model.config.width
        return language_recipe(n, width, lora=lora, epochs=options.epochs, learning_rate=options.learning_rate)

    def _epochs(self, lengths: Sequence[int], n: int, dtype: torch.dtype) -> Epochs:
        """Of n texts, with spans of these lengths in tokens."""
        model = self._trained.transformer
        at_once = tokens_in_memory(
            self._parallel.checkpoint_activations,
            model,
            machine.tokens_at_once("finetuning", model.device, dtype),
            max(lengths),
            dtype,
            least_free_memory(model.device, self._processes),
        )
        return Epochs(self._recipe(n).batch_size, at_once, model.device, self.options.seed)

    def _words(
        self, examples: Examples, validating: Examples, dtype: torch.dtype
    ) -> tuple[LabelWords, Callable[[], Validation] | None]:
        """The objective, and what validates."""
        texts, others = (word_texts(self._start, part) for part in (examples, validating))
        model = self._trained.transformer
        objective = LabelWords(
            texts,
            weights_of_classes(texts.classes, len(self.task.labels), balanced=self.options.class_weights),
            self._epochs([len(span.tokens) for each in texts.options for span in each], len(texts), dtype),
            causal=model.config.causal,
            original_context=model.config.original_context,
            smoothing=SMOOTHING,
        )
        return objective, partial(objective.validate, model, others, self._processes) if len(others) else None

    def _answers(
        self, examples: Examples, validating: Examples, dtype: torch.dtype
    ) -> tuple[Answers, Callable[[], Validation] | None]:
        """The objective, and what validates."""
        model = self._trained.transformer
        texts = answer_spans(self._start, examples)
        others = fitting_spans(self._start, validating)
        self._left_out = len(examples) + len(validating) - len(texts) - len(others)
        self._longest = max(len(text.targets) for text in texts)
        self._one_line = all(map(self._start.is_one_line, examples.labels))
        epochs = self._epochs([len(text.tokens) for text in texts], len(texts), dtype)
        objective = Answers(texts, epochs, model.config.original_context)
        return objective, partial(objective.validate, model, others, self._processes) if others else None


def marked(tokenizer: Tokenizer, span: Span, causal: bool) -> str:
    """The tokens of a span, divided by |, those that are predicted in brackets.

    A causal model predicts a token at the position before it, and does not read the last one.
    """
    tokens, learned = [int(token) for token in span.tokens], set(span.positions)
    if causal:
        tokens, learned = [*tokens, span.targets[-1]], {position + 1 for position in span.positions}
    else:
        for position, target in zip(span.positions, span.targets, strict=True):
            tokens[position] = target
    texts = tokenizer.token_texts(tokens)
    return "|".join(f"[{text}]" if position in learned else text for position, text in enumerate(texts))
