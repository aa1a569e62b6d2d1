"""The verbs of who has text: from documents to a language model and what it says. Knows how things are asked and shown,
not done."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes, Positional

from chainrule.pretraining.options import PretrainOptions
from chainrule.text.corpus import CorpusOptions
from chainrule.verbs.options import Device, Dtype, Json, check_at_least, check_seed, refuse_without

if TYPE_CHECKING:
    from chainrule.language_model import Pretrained


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
    chat: bool = False,
    system: str = "",
    seed: int = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Continue a prompt by sampling softmax(u/τ), streamed.

    Args:
        model: A run, any Hugging Face directory, or a name on the Hub.
        prompt: What to continue; nothing is the beginning of a document. One that begins with - stands after --.
        temperature: τ; 0 is the most probable token.
        top_k: Sample from the k most probable tokens.
        top_p: Sample from the fewest tokens that hold this probability.
        min_p: Sample from tokens at least this share as probable as the most probable one.
        repetition_penalty: Above 1, tokens that occurred become less probable.
        max_tokens: End after so many.
        samples: How many continuations.
        stop: End before any of these strings.
        chat: The prompt is a user's message, written as the model's chat template has it.
        system: With --chat, a message before it that tells the model how to answer.
        seed: Sample s draws from the stream of (seed, s).
        device: Where to compute.
        dtype: What to compute in.
        json: Print one JSON document.
    """
    from chainrule.generation.sampling import Sampling
    from chainrule.language_model import load
    from chainrule.terminal import print_json

    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    check_at_least(1, max_tokens=max_tokens, samples=samples)
    check_seed(seed)
    if "" in stop:
        raise ValueError("--stop: wanted strings of at least one character, got an empty one; leave it out")
    if not chat:
        refuse_without("--chat", {"system": system}, {"system": ""})
    lm = load(model, device=device, dtype=dtype)
    asked: Sequence[int] | str = prompt
    if chat:
        before = [{"role": "system", "content": system}] if system else []
        asked, prompt = lm.chat.tokens([*before, {"role": "user", "content": prompt}]), ""
    if json:
        made = lm.completions([asked], sampling, samples=samples, max_tokens=max_tokens, stop=stop, seed=seed)
        print_json({"completions": [asdict(completion) for completion in made]})
    elif samples == 1:
        # The prompt is printed with the first piece: one that is refused prints nothing.
        for piece in lm.pieces([asked], sampling, max_tokens=max_tokens, stop=stop, seed=seed):
            print(prompt + piece.text, end="", flush=True)
            prompt = ""
        print()
    else:
        made = lm.completions([asked], sampling, samples=samples, max_tokens=max_tokens, stop=stop, seed=seed)
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

    A masked model gives each token given all others; where the text has masks, what it would put there.

    Args:
        model: A run, any Hugging Face directory, or a name on the Hub.
        text: The text to score; - reads standard input.
        given: What stands before it and is not scored.
        top: How many alternatives to show.
        device: Where to compute.
        dtype: What to compute in.
        json: Print one JSON document.
    """
    from chainrule.language_model import LanguageModel, load
    from chainrule.masked_language_model import MaskedLanguageModel
    from chainrule.terminal import print_json, print_table

    check_at_least(0, top=top)
    lm = load(model, device=device, dtype=dtype)
    text = sys.stdin.read() if text == "-" else text
    mask = lm.tokenizer.named.get("mask_token")
    if isinstance(lm, MaskedLanguageModel) and mask and mask in text:
        if given:
            raise ValueError("--given: wanted a text without masks behind it, got one with some; put all into the text")
        _tell_blanks(lm.fill(text, top), json)
        return
    tokens = lm.score(text, given=given, top=top)
    total = sum(token.log_prob for token in tokens)
    if json:
        name = "log_prob" if isinstance(lm, LanguageModel) else "pseudo_log_prob"
        print_json({"tokens": [token._asdict() for token in tokens], name: total})
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


def _tell_blanks(filled: list[list[tuple[str, float]]], json: bool) -> None:
    """What a masked model would put into each blank."""
    from chainrule.terminal import print_json, print_table

    if json:
        print_json({"blanks": filled})
        return
    told = ["  ".join(f"{word!r} {p:.4f}" for word, p in best) for best in filled]
    print_table(("blank", "p"), [(str(number), words) for number, words in enumerate(told, 1)])


def evaluate(
    model: Positional[str],
    texts: Positional[tuple[str, ...]] = (),
    /,
    tasks: tuple[str, ...] = (),
    shots: int | None = None,
    limit: int | None = None,
    include: Path | None = None,
    stride: int | None = None,
    field: str = "text",
    encoding: str = "utf-8",
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Loss, perplexity and bits per byte on files of text, every token scored once; or lm-evaluation-harness's tasks.

    Args:
        model: A run, any Hugging Face directory, or a name on the Hub.
        texts: Files, folders or globs of documents; - reads standard input.
        tasks: Tasks of lm-evaluation-harness, in place of texts.
        shots: With --tasks, how many demonstrations; by default the task's own number.
        limit: With --tasks, so many documents of each.
        include: With --tasks, a folder with the YAML files of tasks of your own.
        stride: Tokens by which a window moves on; half the context by default.
        field: The column or key that holds a row's document.
        encoding: Of the files.
        device: Where to compute.
        dtype: What to compute in.
        json: Print one JSON document.
    """
    from chainrule.language_model import load
    from chainrule.masked_language_model import MaskedEvaluation
    from chainrule.terminal import print_json
    from chainrule.text.records import find_files, read_texts

    if bool(texts) == bool(tasks):
        raise ValueError("evaluate: wanted files of text, or --tasks; got both or neither: choose one")
    of_texts = {"stride": stride, "field": field, "encoding": encoding}
    of_tasks = {"shots": shots, "limit": limit, "include": include}
    if tasks:
        refuse_without("files of text", of_texts, {"stride": None, "field": "text", "encoding": "utf-8"})
    else:
        refuse_without("--tasks", of_tasks, dict.fromkeys(of_tasks))
    check_at_least(0, shots=shots)
    check_at_least(1, limit=limit, stride=stride)
    lm = load(model, device=device, dtype=dtype)
    if tasks:
        _evaluate_tasks(lm, tasks, shots, limit, include, json)
        return
    found = lm.evaluate(read_texts(find_files(texts), field=field, encoding=encoding), stride=stride)
    if isinstance(found, MaskedEvaluation):
        if json:
            print_json(asdict(found))
            return
        print(
            f"{found.tokens} tokens, {found.masked_tokens} of them masked: masked loss {found.masked_loss:.4f} nats"
            " a masked token (not to be compared with a causal model's loss)"
        )
        return
    if json:
        print_json(asdict(found) | {"perplexity": found.perplexity, "bits_per_byte": found.bits_per_byte})
        return
    print(
        f"{found.tokens} tokens, {found.bytes} bytes: loss {found.loss:.4f} nats a token,"
        f" perplexity {found.perplexity:.3f}, {found.bits_per_byte:.4f} bits per byte"
    )


def _evaluate_tasks(
    lm: "Pretrained", tasks: tuple[str, ...], shots: int | None, limit: int | None, include: Path | None, json: bool
) -> None:
    """The harness's figures; what it prints of its own accord goes to standard error."""
    from contextlib import redirect_stdout

    try:
        from chainrule.integrations.harness import evaluate_tasks
    except ImportError as error:
        raise ValueError(
            f"--tasks: wanted lm-evaluation-harness, got {error}; install it with pip install 'chainrule[eval]'"
        ) from None
    from chainrule.terminal import print_json, print_table

    with redirect_stdout(sys.stderr):
        found = evaluate_tasks(lm, tasks, shots=shots, limit=limit, include=include)
    if json:
        print_json({"tasks": [figure._asdict() for figure in found]})
        return
    rows = [
        (one.task, one.metric, f"{one.value:.4f}", "" if one.standard_error is None else f"{one.standard_error:.4f}",
         str(one.n))
        for one in found
    ]  # fmt: skip
    print_table(("task", "metric", "value", "standard error", "n"), rows)


def info(model: Positional[str], /, json: Json = False) -> None:
    """What a directory holds: family, sizes, tokenizer, and how it was trained.

    Args:
        model: A run, any Hugging Face directory, or a name on the Hub.
        json: Print one JSON document.
    """
    from chainrule.inspection import inspect_model
    from chainrule.terminal import print_json, print_table

    found = inspect_model(model)
    if json:
        print_json(found)
        return
    print_table(("", ""), [(name.replace("_", " "), str(value)) for name, value in found.items()])


def demo(out: Path = Path("demo"), seed: int = 0, full: bool = False, json: Json = False) -> None:
    """Section 14.3 from nothing: a made-up world, pretraining on it, samples, the chain rule, and every adaptation.

    Args:
        out: The folder that the corpus, the model, the report and results.json go to.
        seed: Of the world and of the training.
        full: Five seeds, and a second pretraining whose reviews mix the polarities, as a control.
        json: Print one JSON document.
    """
    check_seed(seed)
    from chainrule.demo.story import tell
    from chainrule.terminal import print_json

    results = tell(out, seed, full=full, quiet=json)
    if json:
        print_json(results)
