"""Sentences a second of SST-2 by label words after 16 fixed demonstrations, beside lm-evaluation-harness.

    python benchmarks/score.py --peer-sentences 128
    python benchmarks/score.py --two-tokens

A GPT-2 with 124M random weights, BOS in front; tokenizing is part of the time measured, loading the model is not. We
score all of dev.tsv, the peer its first sentences: the same strings, by `HFLM.loglikelihood` with a batch size of 1,
which is its fastest on a CPU (no padding; it reuses the logits of a context for all options of one token). Each side
and precision runs in its own process.
"""

import sys

sys.path[0] = sys.path[0].removesuffix("benchmarks")  # this folder's tokenize.py would hide Python's own

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from benchmarks.record import record

DATA = Path(__file__).parents[2] / "shared" / "data" / "sst2"
SHOTS = 16
WORDS = {"0": " terrible", "1": " great"}
TWO_TOKENS = {"0": " very terrible", "1": " really great"}
WEIGHTS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def write_model(directory: Path, data: Path, vocabulary_size: int) -> None:
    """GPT-2 small with random weights, none at its initial value, and a tokenizer trained on the sentences."""
    from chainrule.model.formats.checkpoint import save_model
    from chainrule.model.formats.families import FAMILIES
    from chainrule.model.transformer import Transformer, initialise
    from chainrule.tokens.make import train_bpe
    from transformers import GPT2Config

    tokenizer = train_bpe([prompt_of(text, " " + label) for text, label in rows(data, "train")], vocabulary_size)
    model = Transformer(FAMILIES["gpt2"].read(GPT2Config().to_dict()))
    initialise(model, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    tokenizer.save(directory)
    save_model(model, "gpt2", directory, tokenizer.bos_id)


def rows(data: Path, split: str) -> list[tuple[str, str]]:
    """Sentences with their labels."""
    lines = (data / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
    return [(text, label) for text, label in (line.split("\t") for line in lines)]


def prompt_of(text: str, word: str = "") -> str:
    return f"Review: {text}\nSentiment:{word}"


def questions(data: Path, words: dict[str, str], sentences: int | None) -> list[tuple[str, str]]:
    """(prompt, label word) for each sentence and label, after the first training rows."""
    demonstrations = "".join(prompt_of(text, words[label]) + "\n\n" for text, label in rows(data, "train")[:SHOTS])
    prompts = [demonstrations + prompt_of(text) for text, _ in rows(data, "dev")[:sentences]]
    return [(prompt, word) for prompt in prompts for word in words.values()]


def ours(directory: Path, dtype: str, asked: list[tuple[str, str]], profile: bool) -> tuple[float, list[float]]:
    """Seconds, and the log-likelihoods."""
    from chainrule.language_model import load
    from chainrule.memory import keep_freed_memory
    from chainrule.scoring.continuations import pair_of, score_continuations

    keep_freed_memory()  # as the command line does
    lm = load(directory, device="cpu", dtype=dtype)
    start = time.perf_counter()
    with torch.autograd.profiler.profile(enabled=profile) as profiler:
        pairs = [pair_of(lm.tokenizer, before, continuation) for before, continuation in asked]
        prepared = time.perf_counter()
        scored = score_continuations(lm.model, pairs)
    end = time.perf_counter()
    print(
        f"{dtype}: prompts of {sum(len(pair.context) for pair in pairs) / len(pairs):.0f} tokens on average, answers of"
        f" {max(len(pair.continuation) for pair in pairs)}; {prepared - start:.2f} s to tokenize,"
        f" {end - prepared:.2f} s to score",
        file=sys.stderr,
    )
    if profile:
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=15), file=sys.stderr)
    return end - start, [each.log_prob for each in scored]


def peer(directory: Path, dtype: str, asked: list[tuple[str, str]], batch: int) -> tuple[float, list[float]]:
    """Seconds, and the log-likelihoods."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(str(directory), device="cpu", dtype=dtype, batch_size=batch, add_bos_token=True)
    requests = [Instance("loglikelihood", {}, arguments, place) for place, arguments in enumerate(asked)]
    start = time.perf_counter()
    found = lm.loglikelihood(requests, disable_tqdm=True)
    return time.perf_counter() - start, [log_prob for log_prob, _ in found]


def compare(one: list[float], other: list[float]) -> tuple[int, float]:
    """Sentences with another prediction, and the largest difference of a log-likelihood."""
    choices = [[a > b for a, b in zip(found[::2], found[1::2], strict=True)] for found in (one, other)]
    return sum(a != b for a, b in zip(*choices, strict=True)), max(abs(a - b) for a, b in zip(one, other, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, help="of dev.tsv for us; all of them by default")
    parser.add_argument("--peer-sentences", type=int, default=128)
    parser.add_argument("--peer-batch", type=int, default=1)
    parser.add_argument("--dtypes", nargs="+", choices=WEIGHTS, default=list(WEIGHTS))
    parser.add_argument("--two-tokens", action="store_true", help="label words of two tokens")
    parser.add_argument("--vocabulary-size", type=int, default=5000, help="of the tokenizer; the model has GPT-2's")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--model", type=Path, help="a directory to write the model to, or one written before")
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of SST-2's train.tsv and dev.tsv")
    parser.add_argument("--side", choices=["ours", "peer"], help="measure one side in this process and print it")
    options = parser.parse_args()
    words = TWO_TOKENS if options.two_tokens else WORDS
    if options.side:
        sentences = options.sentences if options.side == "ours" else options.peer_sentences
        asked = questions(options.data, words, sentences)
        if options.side == "ours":
            found = ours(options.model, options.dtypes[0], asked, options.profile)
        else:
            found = peer(options.model, options.dtypes[0], asked, options.peer_batch)
        print(json.dumps(found))
        return

    with tempfile.TemporaryDirectory() as temporary:
        directory = options.model or Path(temporary) / "gpt2"
        if not directory.exists():
            write_model(directory, options.data, options.vocabulary_size)
        rates: dict[tuple[str, str], float] = {}
        for dtype in options.dtypes:
            log_probs = {}
            for side in ("ours", "peer"):
                command = [sys.executable, *sys.argv, "--model", str(directory), "--side", side, "--dtypes", dtype]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                seconds, log_probs[side] = json.loads(done.stdout.splitlines()[-1])
                rates[side, dtype] = len(log_probs[side]) / 2 / seconds
            both = min(map(len, log_probs.values()))
            others, difference = compare(*(found[:both] for found in log_probs.values()))
            mine, theirs = rates["ours", dtype], rates["peer", dtype]
            print(
                f"{dtype}: ours {mine:.1f} sentences/s, lm-evaluation-harness {theirs:.2f}, ratio {mine / theirs:.1f};"
                f" of {both // 2} sentences {others} have another prediction; log-likelihoods within {difference:.1e}"
            )
            if dtype == "float32" and (others or difference > 1e-3):
                raise SystemExit("float32: wanted the peer's predictions and log-likelihoods within 1e-3")
            limit = f"SST-2, {SHOTS} shots, words of {1 + options.two_tokens} tokens, GPT-2 124M, {dtype} on both sides"
            record("score", round(mine, 1), round(theirs, 2), round(mine / theirs, 1), limit)


if __name__ == "__main__":
    main()
