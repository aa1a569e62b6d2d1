"""How often what `compare` advises is within 2 points of the best method on test items that it has not seen.

    python benchmarks/advice.py tasks OUT [--sst2 FOLDER] [--shakespeare FILE]
    python -m chainrule pretrain OUT/texts.jsonl --out OUT/model --depth 4 --width 128 --context 128 --steps 400
    python benchmarks/advice.py count OUT/model OUT

The first writes tasks of real text: the sentiment of SST-2's sentences, who speaks and in which part of the file a line
stands in tinyshakespeare.txt, the package and the kind of object that a docstring of Python's standard library belongs
to, and the polarity of the demo's generated reviews. The last runs `compare` on each: its seeds 0 to 2 on one half of
the test items give the advice at each N, its seeds 3 to 5 on the other half the accuracies by which it is judged.
"""

import sys

sys.path[0] = sys.path[0].removesuffix("benchmarks")  # this folder's tokenize.py would hide Python's own

import argparse
import ast
import json
import random
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from chainrule.storage.files import write_text

METHODS, SIZES, SEEDS = ("majority", "bag-of-words", "centroid", "head"), (16, 64, 256), 6
TRAIN, TEST, HALVES = 1500, 800, 20
NEAR = 0.02
PACKAGES = ("asyncio", "email", "http", "multiprocessing", "tkinter", "unittest")
Labelled = tuple[str, str]


def sst2(folder: Path) -> list[Labelled]:
    lines = (folder / "train.tsv").read_text(encoding="utf-8").splitlines()
    return [(text, {"0": "negative", "1": "positive"}[label]) for text, label in (line.split("\t") for line in lines)]


def speeches(file: Path) -> list[tuple[str, str, float]]:
    """Speaker, the beginning of what is said, and where in the file, 0..1."""
    found = re.findall(r"(?m)^([A-Z][A-Za-z ]+):\n((?:.+\n?)+)", file.read_text(encoding="utf-8"))
    return [(who, " ".join(said.split())[:200], number / len(found)) for number, (who, said) in enumerate(found)]


def speakers(file: Path) -> list[Labelled]:
    said = speeches(file)
    most = [speaker for speaker, _ in Counter(speaker for speaker, *_ in said).most_common(6)]
    return [(text, speaker) for speaker, text, _ in said if speaker in most]


def parts(file: Path) -> list[Labelled]:
    return [(text, f"part {int(4 * where) + 1}") for _, text, where in speeches(file)]


def docstrings() -> Iterator[tuple[str, str, str]]:
    """Package or module, kind of object, and first paragraph of each docstring of the standard library."""
    library = Path(sysconfig.get_path("stdlib"))
    for file in sorted(library.rglob("*.py")):
        inside = file.relative_to(library)
        if {"site-packages", "test", "tests", "idle_test"} & set(inside.parts):
            continue
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and (text := ast.get_docstring(node)):
                kind = {ast.FunctionDef: "function", ast.ClassDef: "class", ast.Module: "module"}[type(node)]
                yield inside.parts[0], kind, " ".join(text.split("\n\n")[0].split())[:200]


def reviews() -> list[Labelled]:
    from chainrule.demo.reviews import review_items
    from chainrule.demo.world import make_world

    items = review_items(make_world().reviews, 4000, reserved=False)
    return [(item.prompt.strip(), item.answer) for item in items]


def write_tasks(out: Path, sst2_folder: Path, shakespeare: Path) -> None:
    documented = list(docstrings())
    tasks = {
        "sentiment": sst2(sst2_folder),
        "speakers": speakers(shakespeare),
        "parts": parts(shakespeare),
        "packages": [(text, package) for package, _, text in documented if package in PACKAGES],
        "kinds": [(text, kind) for _, kind, text in documented],
        "reviews": reviews(),
    }
    texts: list[str] = []
    for name, pairs in tasks.items():
        distinct = list(dict(pairs).items())  # a text once
        random.Random(0).shuffle(distinct)
        tested = min(TEST, len(distinct) // 3)
        for part, some in (("test", distinct[:tested]), ("train", distinct[tested : tested + TRAIN])):
            lines = (json.dumps({"text": text, "label": label}) for text, label in some)
            write_text(out / f"{name}-{part}.jsonl", "".join(f"{line}\n" for line in lines))
        texts += [text for text, _ in distinct[tested:]]
        files = f'train = "{name}-train.jsonl"\ntest = "{name}-test.jsonl"\n'
        write_text(out / f"{name}.toml", f'kind = "classification"\n{files}text = "text"\nlabel = "label"\n')
        print(f"{name}: {len(distinct) - tested} texts to learn from, {tested} to test")
    random.Random(0).shuffle(texts)
    write_text(out / "texts.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))


def count(model: Path, out: Path) -> None:
    """Print a line of a Markdown table for each task: of the advices at each N, how many were good."""
    import chainrule
    from chainrule.comparison.advice import choices
    from chainrule.comparison.methods import METHODS as ALL

    lm = chainrule.load(model)
    rng = np.random.default_rng(0)
    total = np.zeros(5)
    print("| task | classes | test items | advised | within 2 points | best by its mean | always bag of words |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for file in sorted(out.glob("*.toml")):
        task = chainrule.Task.load(file)
        done = chainrule.compare(lm, task, out=out / "compared" / file.stem, methods=METHODS, sizes=SIZES, seeds=SEEDS)
        setting, outcomes, M = done.table.setting, done.table.outcomes, len(task.test)
        good = np.zeros(5)
        for _ in range(HALVES):
            order = rng.permutation(M)
            halves = order[: M // 2], order[M // 2 :]
            advised, judge = (
                type(done.table)(
                    replace(setting, items=setting.items.take(half.tolist())),
                    [
                        replace(one, predictions=[one.predictions[i] for i in half])
                        for one in outcomes
                        if (one.seed < SEEDS // 2) == (side == 0)
                    ],
                    ALL,
                )
                for side, half in enumerate(halves)
            )
            for choice in choices(advised):
                there = {name: cell.accuracy.value for name, cell in judge.with_labels(choice.labels).items()}
                least = max(there.values()) - NEAR
                taken = choice.constant or choice.cheapest(M // 2)
                loss = max(there.values()) - there[taken.name]
                good += (1, there[taken.name] >= least, there[choice.best.name] >= least,
                         there["bag-of-words"] >= least, loss)  # fmt: skip
        total += good
        _print_line(file.stem, str(len(task.labels)), str(M // 2), good)
    _print_line("all", "", "", total)


def _print_line(*values: object) -> None:
    *names, good = values
    n, advised, best, simple, loss = np.asarray(good)
    shares = (f"{100 * share / n:.0f} %" for share in (advised, best, simple))
    print("| " + " | ".join([*map(str, names), f"{n:.0f}", *shares]) + f" | mean loss {100 * loss / n:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    tasks = commands.add_parser("tasks")
    tasks.add_argument("out", type=Path)
    tasks.add_argument("--sst2", type=Path, default=Path("data/sst2"))
    tasks.add_argument("--shakespeare", type=Path, default=Path("data/tinyshakespeare.txt"))
    counting = commands.add_parser("count")
    counting.add_argument("model", type=Path)
    counting.add_argument("out", type=Path)
    options = parser.parse_args()
    if options.command == "tasks":
        options.out.mkdir(parents=True, exist_ok=True)
        write_tasks(options.out, options.sst2, options.shakespeare)
    else:
        count(options.model, options.out)


if __name__ == "__main__":
    main()
