"""Finetuning and features on SST-2 beside transformers: texts a second, the same model, texts and precision.

    python benchmarks/adapt.py --what train lora features --dtypes float32 bfloat16

A GPT-2 of 6 layers and width 384 with random weights, or the model of --model, which both sides load from one
directory. `train`: whole steps of w and θ on the same batches of 32 texts in the same order, the peer by its Trainer,
padding each batch to its longest text; fused AdamW, float32 weights, bfloat16 by autocast there and as `compute_dtype`
here. `lora`: the same of w and matrices of rank 16 beside all linear layers of the blocks, the peer by peft.
`features`: the last layer at the last token of all 6,920 sentences, tokenized within the time measured, the peer by
AutoModel in batches of 32 in the order they come. The two take turns, each in a process of its own.
"""

import sys

sys.path[0] = sys.path[0].removesuffix("benchmarks")  # this folder's tokenize.py would hide Python's own

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.record import record

DATA = Path(__file__).parents[2] / "shared" / "data" / "sst2"
BATCH = 32
WARMUP = 3  # steps that are not measured
RANK = 16
SHAPE = {"n_layer": 6, "n_embd": 384, "n_head": 6, "n_positions": 256}


def rows(data: Path) -> tuple[list[str], list[int]]:
    """Sentences and their classes."""
    lines = (data / "train.tsv").read_text(encoding="utf-8").splitlines()
    texts, labels = zip(*(line.split("\t") for line in lines), strict=True)
    return list(texts), [int(label) for label in labels]


def write_model(directory: Path, data: Path, vocabulary_size: int) -> None:
    """Random weights, and a tokenizer trained on the sentences."""
    from chainrule.language_model import LanguageModel
    from chainrule.model.formats.families import FAMILIES
    from chainrule.model.transformer import Transformer, initialise
    from chainrule.tokens.make import train_bpe
    from transformers import GPT2Config

    tokenizer = train_bpe(rows(data)[0], vocabulary_size)
    special = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.bos_id}
    config = GPT2Config(vocab_size=tokenizer.vocabulary_size, **SHAPE, **special)
    model = Transformer(FAMILIES["gpt2"].read(config.to_dict()))
    initialise(model, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():  # no weight at its tame start
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    LanguageModel(model, tokenizer, "gpt2").save(directory)


def order(n: int) -> np.ndarray:
    """In which both sides take the texts: that of our first epoch, seed 0."""
    return np.random.default_rng([0, 0]).permutation(n)


def our_training(directory: Path, data: Path, dtype: str, steps: int, lora: bool = False) -> tuple[float, list[float]]:
    """Texts a second, and each step's loss without smoothed labels."""
    from chainrule import machine
    from chainrule.finetuning.centred import HeadWeights
    from chainrule.finetuning.problems import Computing, OneLabel
    from chainrule.finetuning.recipes import Recipe
    from chainrule.finetuning.trained import AllWeights, ClassifierTraining
    from chainrule.language_model import load
    from chainrule.memory import keep_freed_memory
    from chainrule.model.formats.adapter import adapter_parts
    from chainrule.model.formats.classifier import without_output
    from chainrule.scoring.features import Features
    from chainrule.training.low_rank import LowRankMatrices

    keep_freed_memory()  # as the command line does
    lm = load(directory, device="cpu", dtype="float32")
    texts, classes = rows(data)
    documents = Features(lm.model, lm.tokenizer).tokens(texts)
    bare, precision = without_output(lm.model), getattr(torch, dtype)
    problem, recipe = OneLabel(("0", "1"), False, 0), Recipe(10**6, BATCH, 1e-4, 1e-4, seed=0, smoothing=0.0)
    # as `finetune` chooses the parts of a batch
    computing = Computing(machine.tokens_at_once("finetuning", bare.device, None if lora else precision), bare.device)
    training = ClassifierTraining(
        LowRankMatrices(bare, adapter_parts(bare, lm.family), RANK, 0) if lora else AllWeights(bare, documents),
        HeadWeights(torch.zeros(2, lm.model.config.width)),
        problem.objective(problem.texts(documents, list(map(str, classes))), recipe, computing),
        problem.texts([], []),
        recipe,
        precision,
    )
    ends, losses = [], []
    for progress in training.trainer.steps():
        ends.append(time.perf_counter())
        losses.append(progress.loss)
        if progress.step == steps + WARMUP:
            break
    return BATCH * steps / (ends[-1] - ends[WARMUP - 1]), losses


def our_lora(directory: Path, data: Path, dtype: str, steps: int) -> tuple[float, list[float]]:
    return our_training(directory, data, dtype, steps, lora=True)


def peer_training(directory: Path, data: Path, dtype: str, steps: int, lora: bool = False) -> tuple[float, list[float]]:
    from torch.utils.data import SequentialSampler
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=2, dtype=torch.float32)
    torch.nn.init.zeros_(model.score.weight)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    if lora:
        from peft import LoraConfig, get_peft_model

        kind = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="SEQ_CLS")
        model = get_peft_model(model, kind)
    texts, classes = rows(data)
    chosen = order(len(texts))[: BATCH * (steps + WARMUP)]
    encoded = tokenizer([texts[row] for row in chosen])["input_ids"]
    examples = [{"input_ids": ids, "labels": classes[row]} for ids, row in zip(encoded, chosen, strict=True)]
    ends: list[float] = []

    class InOrder(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as temporary:
        arguments = TrainingArguments(
            temporary,
            per_device_train_batch_size=BATCH,
            max_steps=steps + WARMUP,
            learning_rate=1e-4,
            optim="adamw_torch_fused",
            bf16=dtype == "bfloat16",
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        InOrder(model, arguments, DataCollatorWithPadding(tokenizer), examples, callbacks=[Clock()]).train()
    return BATCH * steps / (ends[-1] - ends[WARMUP - 1]), []


def peer_lora(directory: Path, data: Path, dtype: str, steps: int) -> tuple[float, list[float]]:
    return peer_training(directory, data, dtype, steps, lora=True)


def our_features(directory: Path, data: Path, dtype: str, count: int) -> tuple[float, list[float]]:
    """Texts a second, and the first features of each text."""
    from chainrule.scoring.features import Features
    from chainrule.language_model import load
    from chainrule.memory import keep_freed_memory

    keep_freed_memory()
    lm = load(directory, device="cpu", dtype=dtype)
    texts = rows(data)[0][:count]
    features = Features(lm.model, lm.tokenizer)
    features(texts[: 4 * BATCH])
    start = time.perf_counter()
    found = features(texts)
    return len(texts) / (time.perf_counter() - start), found[:, 0].tolist()


def peer_features(directory: Path, data: Path, dtype: str, count: int) -> tuple[float, list[float]]:
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModel.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()
    texts = rows(data)[0][:count]

    @torch.inference_mode()
    def features(texts: list[str]) -> torch.Tensor:
        parts = []
        for start in range(0, len(texts), BATCH):
            batch = tokenizer(texts[start : start + BATCH], return_tensors="pt", padding=True)
            states = model(**batch, use_cache=False).last_hidden_state
            parts.append(states[torch.arange(len(states)), batch["attention_mask"].sum(1) - 1])
        return torch.cat(parts)

    features(texts[: 4 * BATCH])
    start = time.perf_counter()
    found = features(texts)
    return len(texts) / (time.perf_counter() - start), found[:, 0].float().tolist()


SIDES = {
    ("train", "ours"): our_training,
    ("train", "peer"): peer_training,
    ("lora", "ours"): our_lora,
    ("lora", "peer"): peer_lora,
    ("features", "ours"): our_features,
    ("features", "peer"): peer_features,
}


def measure(what: str, dtype: str, directory: Path, data: Path, name: str, amount: int, rounds: int) -> None:
    """Rates of both sides in turn; their median ratio is recorded."""
    rates: dict[str, list[float]] = {"ours": [], "peer": []}
    values: dict[str, list[float]] = {}
    for _ in range(rounds):
        for side, found in rates.items():
            command = [sys.executable, __file__, "--side", side, "--what", what, "--dtypes", dtype]
            command += ["--model", str(directory), "--data", str(data), "--amount", str(amount)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rate, values[side] = json.loads(done.stdout.splitlines()[-1])
            found.append(rate)
    if what == "features":
        apart = max(abs(a - b) for a, b in zip(values["ours"], values["peer"], strict=True))
        print(f"features of the two differ by at most {apart:.1g}")
    ours, peer = (statistics.median(found) for found in rates.values())
    ratio = statistics.median(a / b for a, b in zip(rates["ours"], rates["peer"], strict=True))
    print(f"{what} {dtype}: ours {ours:,.0f} texts/s, transformers {peer:,.0f}, ratio {ratio:.2f}")
    peers = {"train": "Trainer", "lora": "Trainer + peft"}
    limit = f"{name}, {dtype}, SST-2, " + (f"batches of 32, {peers[what]}" if what in peers else f"{amount} texts")
    record(f"adapt {what}", round(ours), round(peer), round(ratio, 2), limit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=["train", "lora", "features"], default=["train", "features"])
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--amount", type=int, help="steps to train (30), or texts to read (6920)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vocabulary-size", type=int, default=8192)
    parser.add_argument("--model", type=Path, help="the directory to measure on; made if it is not given")
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of SST-2's train.tsv")
    parser.add_argument("--side", choices=["ours", "peer"], help="measure one side in this process and print it")
    options = parser.parse_args()
    amounts = {what: options.amount or {"train": 30, "lora": 30, "features": 6920}[what] for what in options.what}
    if options.side:
        what = options.what[0]
        print(json.dumps(SIDES[what, options.side](options.model, options.data, options.dtypes[0], amounts[what])))
        return
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.model or Path(temporary)
        name = "GPT-2 6 x 384" if options.model is None else directory.name
        if options.model is None:
            write_model(directory, options.data, options.vocabulary_size)
        for what in options.what:
            for dtype in options.dtypes:
                measure(what, dtype, directory, options.data, name, amounts[what], options.rounds)


if __name__ == "__main__":
    main()
