"""Scores of the labels after a row's prompt. Knows prompts and a model, not rows.

Shapes: N prompts, C labels.
"""

from collections.abc import Sequence

import numpy as np

from chainrule.model.transformer import Transformer
from chainrule.prompting.asking import Normalise
from chainrule.prompting.calibrate import Floats
from chainrule.prompting.row_prompts import RowPrompt
from chainrule.scoring.blanks import score_blanks
from chainrule.scoring.continuations import Pair, score_continuations
from chainrule.training.spans import Span


def label_scores(model: Transformer, prompts: Sequence[RowPrompt], normalise: Normalise) -> Floats:
    """(N, C): log p of each label's ending after the prompt, in nats: its sum, or its mean by token or byte."""
    options = [option for prompt in prompts for option in prompt.options]  # all pairs, or all blanks
    scored = score_continuations(model, [option for option in options if isinstance(option, Pair)])
    scored += score_blanks(model, [option for option in options if isinstance(option, Span)])
    scores = np.array([score.log_prob for score in scored], np.float64)
    if normalise == "token":
        scores /= [score.tokens for score in scored]
    elif normalise == "byte":
        scores /= [len(ending.encode()) for prompt in prompts for ending in prompt.endings]
    return scores.reshape(len(prompts), -1)
