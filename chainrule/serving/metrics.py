"""`/metrics`: what each model does, in Prometheus's text format. Knows threads and engines."""

from collections import Counter
from collections.abc import Iterator, Mapping

from chainrule.serving.served import Served

_HELP = {
    "requests_total": ("counter", "Answers, by path and status"),
    "prompt_tokens_total": ("counter", "Tokens of prompts"),
    "generated_tokens_total": ("counter", "Tokens generated"),
    "sequences_total": ("counter", "Sequences begun"),
    "sequences_failed_total": ("counter", "Sequences that the engine failed at"),
    "sequences_cancelled_total": ("counter", "Sequences whose client left, or whose time was over"),
    "sequences_running": ("gauge", "Sequences that are generated now"),
    "sequences_waiting": ("gauge", "Sequences that wait"),
    "prefix_tokens": ("gauge", "Tokens whose keys and values are kept for prompts that begin with them"),
    "prefix_tokens_found_total": ("counter", "Tokens of prompts that were found there"),
    "prefix_tokens_asked_total": ("counter", "Tokens of prompts that were looked for there"),
    "up": ("gauge", "1 while the model's thread works"),
}


def metrics(served: Served, requests: Mapping[tuple[str, int], int]) -> str:
    """All figures, each with its help; `requests` are the answers by path and status."""
    figures: dict[str, list[str]] = {name: [] for name in _HELP}
    for (path, status), count in sorted(requests.items()):
        figures["requests_total"].append(f'{{path="{path}",status="{status}"}} {count}')
    for model, found in _of_threads(served):
        for name, value in found.items():
            figures[name].append(f'{{model="{_escaped(model)}"}} {value}')
    lines = []
    for name, (kind, text) in _HELP.items():
        lines += [f"# HELP chainrule_{name} {text}.", f"# TYPE chainrule_{name} {kind}"]
        lines += [f"chainrule_{name}{figure}" for figure in figures[name]]
    return "\n".join(lines) + "\n"


def _of_threads(served: Served) -> Iterator[tuple[str, Counter[str]]]:
    for name, thread in served.threads.items():
        found: Counter[str] = Counter(up=int(thread.dead is None))
        counts, engine = thread.counts, thread.engine
        if engine is not None:
            running = engine.running
            found |= Counter(
                prompt_tokens_total=counts.prompt_tokens,
                generated_tokens_total=counts.new_tokens,
                sequences_total=counts.sequences,
            )
            found["sequences_failed_total"], found["sequences_cancelled_total"] = counts.failed, counts.cancelled
            found["sequences_running"], found["sequences_waiting"] = running, max(0, thread.open - running)
            if engine.known is not None:
                found["prefix_tokens"] = len(engine.known)
                found["prefix_tokens_found_total"] = engine.known.found
                found["prefix_tokens_asked_total"] = engine.known.asked
        yield name, found


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
