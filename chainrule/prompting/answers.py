"""What a model says of its own accord: greedy generation to the end of an answer. Knows tokens and words, no task."""

import re
from collections.abc import Callable, Sequence

from chainrule.generation.decode import decode
from chainrule.generation.sampling import Sampling
from chainrule.generation.text import TextStream
from chainrule.language_model import Pretrained

_PROMPTS_AT_ONCE = 32


def say(lm: Pretrained, prompts: Sequence[Sequence[int]], ended: Callable[[str], bool], max_tokens: int) -> list[str]:
    """What follows each prompt (tokens, ⊥ included), by the most probable token each time.

    A text goes on until `ended` says so, and at most to a stop token, `max_tokens` or the end of the context.
    Raises ChainruleError for a prompt that leaves no room in the context.
    """
    texts = [""] * len(prompts)
    by_length = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    for start in range(0, len(prompts), _PROMPTS_AT_ONCE):
        places = by_length[start : start + _PROMPTS_AT_ONCE]
        batch = [prompts[place] for place in places]
        streams = [TextStream(lm.tokenizer.decode, prompt, ()) for prompt in batch]
        for step in decode(lm.model, batch, Sampling(0), max_tokens=max_tokens, stop_tokens=lm.stop_tokens):
            for sequence, token in zip(step.sequences, step.tokens, strict=True):
                place, stream = places[sequence], streams[sequence]
                if token not in lm.stop_tokens:
                    texts[place] += stream.push(token)
                if ended(texts[place]):
                    step.finished.add(sequence)
                elif sequence in step.finished:
                    texts[place] += stream.finish()
    return texts


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
