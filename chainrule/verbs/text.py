"""The verbs of who has text: from documents to a language model and what it says. Knows how things are asked and shown,
not done."""

import sys
from dataclasses import asdict
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from chainrule.pretraining.options import PretrainOptions
from chainrule.text.corpus import CorpusOptions
from chainrule.verbs.options import Device, Dtype, Json


def tokenize(
    inputs: Positional[list[str]],
    /,
    out: Path,
    corpus: OmitArgPrefixes[CorpusOptions] = CorpusOptions(),
    json: Json = False,
) -> None:
    """Turn documents (.txt .jsonl .csv .tsv .parquet, folders, globs, - for standard input) into shards of tokens.

    Args:
        inputs: Files, folders or globs; - reads standard input.
        out: The folder that the shards go to.
        json: Print one JSON document.
    """
    from chainrule.terminal import print_json, progress_bar
    from chainrule.text.corpus import write_shards

    with progress_bar(1.0, "tokenizing") as show:
        summary = write_shards(
            inputs, out, corpus, lambda done, all_of_it: show(done / max(1, all_of_it), f"{done / 1e6:.0f} MB")
        )
    if json:
        print_json(asdict(summary))
        return
    print(
        f"{summary.documents} documents, {summary.bytes} bytes -> {summary.tokens} tokens in {out}"
        f" ({summary.seconds:.1f} s)" + (f"; {summary.skipped} skipped" if summary.skipped else "")
    )


def pretrain(
    data: Positional[list[str]],
    /,
    out: Path,
    options: OmitArgPrefixes[PretrainOptions] = PretrainOptions(),
    corpus: OmitArgPrefixes[CorpusOptions] = CorpusOptions(),
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Train a language model on text or shards, from nothing or --from a model; the same command again goes on.

    Args:
        data: A folder of shards, or text, which is tokenized first.
        out: The run's folder, which is a Hugging Face model when it ends.
        device: Where to compute.
        dtype: What to compute in; auto is bfloat16 where this machine multiplies faster with it.
        json: Print one JSON document.
    """
    from chainrule.pretraining.start import open_run
    from chainrule.terminal import one_line, print_json, progress_bar, say, signals_noted

    run = open_run(data, out, options, corpus, device=device, dtype=dtype, say=say)
    if run.finished:
        say(f"{out} is finished ({run.step} steps); to train it further: chainrule pretrain ... --from {out} --out NEW")
    elif run.step:
        say(f"going on from step {run.step} of {run.decided.steps}")
    with signals_noted() as signalled, progress_bar(run.decided.steps, "training") as show:
        for progress in run.advance():
            beside = (
                f"step {progress.step}/{run.decided.steps}  loss {progress.loss:.3f}"
                f"  {progress.tokens_per_second:,.0f} tokens/s  {progress.mfu:.0%} of the matmul rate"
                f"  {progress.seconds_left:.0f} s left"
            )
            show(progress.step, beside)
            if progress.note:
                say(progress.note)
            if progress.validation_loss is not None:
                say(f"{beside}  validation loss {progress.validation_loss:.4f}")
                say(f"    {one_line(run.sample())}")
            if (number := signalled()) is not None and not run.finished:
                run.save()
                say(f"stopped and saved at step {run.step}; the same command goes on from there")
                sys.exit(128 + number)
    summary = run.summary()
    if json:
        print_json(asdict(summary))
        return
    validation = "" if summary.validation_loss is None else f", validation loss {summary.validation_loss:.4f}"
    print(
        f"{out}: {summary.steps} steps, {summary.tokens} tokens, training loss {summary.train_loss:.4f}{validation}"
        f" (nats a token), {summary.seconds:.1f} s, {summary.tokens_per_second:,.0f} tokens/s"
    )


def generate(
    model: Positional[str],
    prompt: Positional[str] = "",
    /,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    max_tokens: int = 256,
    samples: int = 1,
    stop: tuple[str, ...] = (),
    seed: int = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Continue a prompt by sampling softmax(u/τ), streamed.

    Args:
        model: A run, or any Hugging Face directory.
        prompt: What to continue; nothing is the beginning of a document. One that begins with - stands after --.
        temperature: τ; 0 is the most probable token.
        top_k: Sample from the k most probable tokens.
        top_p: Sample from the fewest tokens that hold this probability.
        min_p: Sample from tokens at least this share as probable as the most probable one.
        repetition_penalty: Above 1, tokens that occurred become less probable.
        max_tokens: End after so many.
        samples: How many continuations.
        stop: End before any of these strings.
        seed: Sample s draws from the stream of (seed, s).
        device: Where to compute.
        dtype: What to compute in.
        json: Print one JSON document.
    """
    from chainrule.generation.sampling import Sampling
    from chainrule.language_model import load
    from chainrule.terminal import print_json

    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    lm = load(model, device=device, dtype=dtype)
    if json:
        made = lm.completions([prompt], sampling, samples=samples, max_tokens=max_tokens, stop=stop, seed=seed)
        print_json({"completions": [asdict(completion) for completion in made]})
    elif samples == 1:
        before = prompt  # printed with the first piece: a prompt that is refused prints nothing
        for piece in lm.pieces([prompt], sampling, max_tokens=max_tokens, stop=stop, seed=seed):
            print(before + piece.text, end="", flush=True)
            before = ""
        print()
    else:
        made = lm.completions([prompt], sampling, samples=samples, max_tokens=max_tokens, stop=stop, seed=seed)
        for index, completion in enumerate(made):
            print(f"--- {index}\n{prompt}{completion.text}")


def score(
    model: Positional[str],
    text: Positional[str],
    /,
    given: str = "",
    top: int = 5,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """The chain rule, token by token: log p of each given the ones before, the likeliest in its place, and the sum.

    Args:
        model: A run, or any Hugging Face directory.
        text: The text to score; - reads standard input.
        given: What stands before it and is not scored.
        top: How many alternatives to show.
        device: Where to compute.
        dtype: What to compute in.
        json: Print one JSON document.
    """
    from chainrule.language_model import load
    from chainrule.terminal import print_json, print_table

    lm = load(model, device=device, dtype=dtype)
    tokens = lm.score(sys.stdin.read() if text == "-" else text, given=given, top=top)
    total = sum(token.log_prob for token in tokens)
    if json:
        print_json({"tokens": [token._asdict() for token in tokens], "log_prob": total})
        return
    rows = [
        (
            repr(token.text)[1:-1],
            f"{token.log_prob:.3f}",
            "  ".join(f"{text!r} {log_prob:.2f}" for text, log_prob in token.alternatives),
        )
        for token in tokens
    ]
    print_table(("token", "log p", "likeliest in its place"), [*rows, ("sum", f"{total:.3f}", "")])


def evaluate(
    model: Positional[str],
    texts: Positional[list[str]],
    /,
    stride: int | None = None,
    field: str = "text",
    encoding: str = "utf-8",
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Loss, perplexity and bits per byte on files of text; every token is scored once.

    Args:
        model: A run, or any Hugging Face directory.
        texts: Files, folders or globs of documents; - reads standard input.
        stride: Tokens by which a window moves on; half the context by default.
        field: The column or key that holds a row's document.
        encoding: Of the files.
        device: Where to compute.
        dtype: What to compute in.
        json: Print one JSON document.
    """
    from chainrule.language_model import load
    from chainrule.terminal import print_json
    from chainrule.text.records import find_files, read_texts

    lm = load(model, device=device, dtype=dtype)
    found = lm.evaluate(read_texts(find_files(texts), field=field, encoding=encoding), stride=stride)
    if json:
        print_json(asdict(found) | {"perplexity": found.perplexity, "bits_per_byte": found.bits_per_byte})
        return
    print(
        f"{found.tokens} tokens, {found.bytes} bytes: loss {found.loss:.4f} nats a token,"
        f" perplexity {found.perplexity:.3f}, {found.bits_per_byte:.4f} bits per byte"
    )


def info(model: Positional[str], /, json: Json = False) -> None:
    """What a directory holds: family, sizes, tokenizer, and how it was trained.

    Args:
        model: A run, or any Hugging Face directory.
        json: Print one JSON document.
    """
    from chainrule.inspection import inspect_model
    from chainrule.terminal import print_json, print_table

    found = inspect_model(Path(model))
    if json:
        print_json(found)
        return
    print_table(("", ""), [(name.replace("_", " "), str(value)) for name, value in found.items()])


def demo(out: Path = Path("demo"), seed: int = 0, json: Json = False) -> None:
    """Section 14.3 from nothing: a made-up world, pretraining on it, samples, the chain rule, zero-shot, in-context.

    Args:
        out: The folder that the corpus, the model and results.json go to.
        seed: Of the world and of the training.
        json: Print one JSON document.
    """
    from chainrule.demo.story import tell
    from chainrule.terminal import print_json

    results = tell(out, seed, quiet=json)
    if json:
        print_json(results)
