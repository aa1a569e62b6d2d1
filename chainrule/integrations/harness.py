"""A language model for lm-evaluation-harness and its tasks (extra `eval`). Knows the harness, and how our models score
and generate; prompts become tokens as in the harness's own `hf` model with BOS in front."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lm_eval
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from chainrule.errors import ChainruleError
from chainrule.integrations.harness_options import answer_options
from chainrule.language_model import LanguageModel, Pretrained, require_causal
from chainrule.scoring.continuations import Pair, score_continuations


class TaskFigure(NamedTuple):
    """One metric of one task."""

    task: str
    metric: str
    value: float
    standard_error: float | None
    n: int


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """The harness's model interface, by `score_continuations` and `completions`."""

    def __init__(self, lm: LanguageModel) -> None:
        super().__init__()
        self.lm = lm
        self.max_length = lm.model.config.context

    @property
    def eot_token_id(self) -> int:
        """BOS, which the harness puts where there is no context."""
        return self.lm.tokenizer.bos_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        tokens = self.lm.tokenizer.encode(string)
        return tokens if add_special_tokens is False else [self.lm.tokenizer.bos_id, *tokens]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, Sequence[int], Sequence[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        pairs = []
        for _text, context, continuation in requests:
            # The beginning of what is too long is cut; the last token is not processed.
            whole = [*context, *continuation][-(self.max_length + 1) :]
            inside = max(1, len(whole) - len(continuation))
            pairs.append(Pair(whole[:inside], whole[inside:]))
        return [(each.log_prob, each.greedy) for each in score_continuations(self.lm.model, pairs)]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """log p of whole texts, in windows that do not overlap."""
        windows = [self._windows(*request.args) for request in requests]
        found = iter(self._loglikelihood_tokens([(None, *window) for text in windows for window in text]))
        return [sum(next(found)[0] for _ in text) for text in windows]

    def _windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1)
        return [make_disjoint_window(window) for window in windows]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers, each up to the first of its stop strings; a request that is repeated gets a sample each time."""
        found: dict[int, str] = {}
        alike: dict[str, dict[str, list[int]]] = {}  # options -> context -> the requests
        for number, request in enumerate(requests):
            alike.setdefault(repr(request.args[1]), {}).setdefault(request.args[0], []).append(number)
        # All options are checked before anything is generated.
        options = [
            answer_options(requests[next(iter(contexts.values()))[0]].args[1], self.lm.generation)
            for contexts in alike.values()
        ]
        for (sampling, until, max_tokens), contexts in zip(options, alike.values(), strict=True):
            prompt_tokens = self.max_length - max_tokens
            if prompt_tokens < 1:
                raise ChainruleError(
                    f"task: wanted answers of fewer than {self.max_length} tokens (the context), got {max_tokens}; give"
                    " max_gen_toks in the task's generation_kwargs"
                )
            prompts = [self.tok_encode(context)[-prompt_tokens:] for context in contexts]
            samples = 1 if sampling.greedy else max(map(len, contexts.values()))
            made = self.lm.completions(prompts, sampling, samples=samples, max_tokens=max_tokens, stop=until)
            for index, numbers in enumerate(contexts.values()):
                for repeat, number in enumerate(numbers):
                    text = made[index * samples + repeat % samples].text
                    found[number] = postprocess_generated_text(text, until, None)
        return [found[number] for number in range(len(requests))]


def evaluate_tasks(
    lm: Pretrained,
    tasks: Sequence[str],
    *,
    shots: int | None = None,
    limit: int | None = None,
    include: Path | None = None,
) -> list[TaskFigure]:
    """The harness's figures for its tasks: by name, or those of the YAML files in `include`.

    `shots`: demonstrations, by default the task's own number; `limit`: use the first documents of each task. Raises
    ChainruleError for a masked model, and for an unknown task.
    """
    lm = require_causal(lm, "--tasks", "leave --tasks out, or take another model")
    lm.model.config.check_language_head()
    manager = TaskManager(include_path=None if include is None else str(include))
    known = set(manager.all_tasks)
    for task in tasks:
        if task not in known:
            beside = "" if include is None else f" or {include}"
            raise ChainruleError(
                f"--tasks: wanted tasks of lm-evaluation-harness{beside}, got {task!r}; see lm-eval ls tasks"
            )
    results = lm_eval.simple_evaluate(
        HarnessModel(lm), tasks=list(tasks), num_fewshot=shots, limit=limit, task_manager=manager, log_samples=False
    )
    found = []
    for task, figures in results["results"].items():
        n = results["n-samples"].get(task, {}).get("effective", 0)
        for name, value in figures.items():
            metric, _, filtered = name.partition(",")
            if not isinstance(value, int | float) or not filtered or metric.endswith("_stderr"):
                continue
            error = figures.get(f"{metric}_stderr,{filtered}")
            metric = metric if filtered == "none" else f"{metric} ({filtered})"
            found.append(TaskFigure(task, metric, float(value), error if isinstance(error, float) else None, n))
    return found
