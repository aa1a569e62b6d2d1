"""The texts of finetuning on label words: each row's prompt with each label word. Knows rows and tokens."""

import numpy as np

from chainrule.errors import DataError
from chainrule.finetuning.logistic import classes_of
from chainrule.prompting.prompted import Prompted
from chainrule.prompting.row_prompts import RowPrompt
from chainrule.scoring.continuations import Pair
from chainrule.tasks.examples import Examples
from chainrule.training.spans import Span
from chainrule.training.words import WordTexts


def word_texts(start: Prompted, examples: Examples) -> WordTexts:
    """The tokens that `start` scores for each label of the examples, and the lengths that it divides scores by. Raises
    DataError for label words that this model cannot tell apart, and what `Prompted.prompts` does."""
    options, lengths, normalise = [], [], start.asking.normalise
    for prompt in start.prompts(examples.rows):
        start.cut += prompt.cut
        spans = [span_of(option) for option in prompt.options]
        _check_apart(start, prompt, spans)
        options.append(spans)
        lengths.append(
            [len(span.targets) for span in spans]
            if normalise == "token"
            else [len(ending.encode()) for ending in prompt.endings]
        )
    divisors = None if normalise == "sum" else np.array(lengths, np.float32).reshape(len(options), len(start.labels))
    return WordTexts(options, classes_of(examples.labels, start.labels), divisors)


def span_of(option: Pair | Span) -> Span:
    """A label word in its prompt, as scoring reads it."""
    if isinstance(option, Span):
        return option
    context, continuation = option
    first = len(context) - 1  # what predicts the word's first token
    return Span([*context, *continuation[:-1]], range(first, first + len(continuation)), continuation)


def _check_apart(start: Prompted, prompt: RowPrompt, spans: list[Span]) -> None:
    seen: dict[tuple[tuple[int, ...], ...], str] = {}
    for label, word, span in zip(start.labels, prompt.endings, spans, strict=True):
        if not span.targets:
            raise DataError(
                f"[prompt.words]: wanted a word for {label!r} of at least one token, got {word!r}, which this model's"
                " tokenizer drops: write another"
            )
        other = seen.setdefault((tuple(span.tokens), tuple(span.targets)), label)
        if other != label:
            raise DataError(
                f"[prompt.words]: wanted words that this model tells apart, got the same tokens for {other!r} and"
                f" {label!r}: write others"
            )
