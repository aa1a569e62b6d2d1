"""The texts of finetuning on answers: each row's prompt, its answer, and what ends it. Knows rows and tokens."""

from chainrule.errors import DataError
from chainrule.prompting.prompted import Prompted
from chainrule.prompting.row_prompts import NoRoomError, PromptMaker
from chainrule.tasks.examples import Examples
from chainrule.training.spans import Span


def answer_spans(start: Prompted, examples: Examples) -> list[Span]:
    """`fitting_spans`; DataError where no answer fits beside its prompt."""
    spans = fitting_spans(start, examples)
    if not spans:
        raise DataError(
            f"finetune: wanted answers that fit into the context of {start.lm.model.config.context} tokens with the"
            f" prompt before them, got none of {len(examples)}; shorten the prompt's template or the answers, or take a"
            " model with a longer context"
        )
    return spans


def fitting_spans(start: Prompted, examples: Examples) -> list[Span]:
    """The prompts as `start` generates from them, and behind each the answer's tokens and the token that ends it.

    Prompt and answer are tokenized apart, as in generation. A row whose answer does not fit into the context with the
    prompt around it is left out; of a row that does its text is cut as in `PromptMaker`, and `start` counts it.
    """
    makers: dict[int, PromptMaker] = {}  # by how many tokens they leave room for
    spans = []
    for row, answer in zip(examples.rows, examples.labels, strict=True):
        tokens = start.answer_tokens(row, answer)
        room = len(tokens) - 1  # the last token is predicted, but not read
        if room not in makers:
            makers[room] = start.maker(room)
        try:
            made = makers[room].fit((), row)
        except NoRoomError:
            continue
        prompt, start.cut = made.tokens, start.cut + made.cut
        first = len(prompt) - 1  # what predicts the answer's first token
        spans.append(Span([*prompt, *tokens[:-1]], range(first, first + len(tokens)), tokens))
    return spans
