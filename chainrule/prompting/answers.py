"""Generated answers: greedy text until an answer is complete, and its first word. Knows tokens and words, no task."""

import re
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from chainrule.generation.sampling import Sampling
from chainrule.generation.text import Ending, complete
from chainrule.language_model import LanguageModel

T = TypeVar("T")


def generate_answers(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], ended: Callable[[str], bool], max_tokens: int
) -> Generator[None, None, list[str]]:
    """A greedy continuation of each prompt (tokens, BOS included), until `ended` is true of its text.

    It ends at the latest with a stop token, after `max_tokens` or where the context is full. Yields after each token,
    for the caller to do something else; `finished` gives the answers without that. Raises ChainruleError for a prompt
    that fills the context.
    """
    texts = [""] * len(prompts)
    ending = Ending(max_tokens, (), lm.stop_tokens, ended)
    for new in complete(lm.model, lm.tokenizer, prompts, Sampling(0), samples=1, ending=ending, seed=0):
        texts[new.sequence] += new.text
        yield
    return texts


def finished(steps: Generator[None, None, T]) -> T:
    """What a function with `yield` returns, called without pauses."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            value: T = stop.value
            return value


def first_word(text: str, words: Sequence[str]) -> str:
    """The one of `words` that `text` begins with, as a whole word; else its first word, or its punctuation.

    Empty where a line ends before a word begins.

    >>> [first_word(text, ["great", "very bad"]) for text in (" great, and", " greatly", " very bad", " very good")]
    ['great', 'greatly', 'very bad', 'very']
    """
    text = text.lstrip(" \t")
    for word in words:
        if re.match(re.escape(word) + r"(?!\w)", text):
            return word
    found = re.match(r"\w+|[^\w\s]+|", text)
    assert found is not None, "the pattern matches nothing too"
    return found[0]


def word_ended(text: str, words: Sequence[str]) -> bool:
    """Whether more text can no longer change `first_word`."""
    text = text.lstrip(" \t")
    return len(text) > len(first_word(text, words)) and not any(word.startswith(text) for word in words)
