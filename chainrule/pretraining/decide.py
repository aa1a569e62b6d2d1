"""What is decided once for a run: its model, its optimizer, and what is measured on this machine. Knows no files."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from chainrule import machine
from chainrule.model.config import Config, LayerKind
from chainrule.model.formats.load_quantised import load_quantised
from chainrule.model.linear import linear_maps
from chainrule.model.transformer import Transformer, initialise
from chainrule.pretraining.options import PretrainOptions, shape_of, windows_per_step
from chainrule.pretraining.run import Decided
from chainrule.training.activations import decide_activations, memory_for_activations
from chainrule.training.objectives import Compiled, Objective
from chainrule.training.optimizer import Group, Matrix, Optimizer, Schedule
from chainrule.training.parallel import ALONE, Processes
from chainrule.training.parallel_muon import ReplicatedMuon, ShardedMuon
from chainrule.training.parallel_options import ParallelOptions
from chainrule.training.sharding import free_memory, sharded, whole_copies_fit
from chainrule.training.trainer import Trainer

DEFAULT_MINUTES = 10.0
WORTH_COMPILING = 240.0  # seconds of training ahead; compiling takes 20 to 60 of them
FORWARD_SHARE = 1 / 3  # cost of validating on a token, as a share of training on it
Log = Callable[[str], None]  # called with a line for the user
_PLAIN: dict[str, Any] = {
    "norm": "layer", "norm_epsilon": 1e-5, "learned_positions": True, "layer_kinds": (LayerKind(),), "gated": False,
    "query_key_norm": None,
    "query_key_value_bias": True, "attention_output_bias": True, "mlp_bias": True,
}  # fmt: skip
_ENCODER: dict[str, Any] = {
    "activation": "gelu", "tied": True, "causal": False, "residual": "post", "segments": 2, "masked_head": True,
}  # fmt: skip


def make_model(vocabulary_size: int, options: PretrainOptions, device: torch.device) -> tuple[Transformer, str]:
    """The model to start from and its family: random weights, or those of --from."""
    if options.start is not None:
        return load_quantised(options.start, device, torch.float32, options.quantize)
    model = Transformer(make_config(vocabulary_size, options))
    initialise(model, options.seed)  # on the CPU, so that every device starts from the same weights
    return model.to(device), options.family_name


def make_config(vocabulary_size: int, options: PretrainOptions) -> Config:
    """The shape of a model of random weights."""
    shape = shape_of(options)
    sizes: dict[str, Any] = {
        "vocabulary_size": vocabulary_size,
        "context": shape.context,
        "width": shape.width,
        "layers": shape.depth,
        "heads": shape.heads,
        "key_value_heads": shape.heads,
        "head_width": shape.width // shape.heads,
    }
    if options.family_name == "qwen3":  # as many weights: three matrices of 8/3 of the width, or two of 4 times
        return Config(**sizes, hidden=32 * max(1, round(shape.width / 12)), tied=options.tied)
    if options.family_name == "gpt2":
        return Config(**sizes, hidden=4 * shape.width, **_PLAIN, activation="gelu_tanh", tied=options.tied)
    return Config(**sizes, hidden=4 * shape.width, **_PLAIN, **_ENCODER)


def make_optimizer(model: Transformer, options: PretrainOptions, steps: int, processes: Processes = ALONE) -> Optimizer:
    """Muon for the matrices inside the blocks and AdamW for the rest, or AdamW alone."""
    names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
    schedule = Schedule(steps)
    scale = 1.0 if options.start is None else 0.1  # 10 times lower learning rate when continuing from a model
    if options.train == "lora":  # 10 times the rate of all weights
        rate = options.learning_rate or 10 * scale * 1e-3 * (256 / model.config.width) ** 0.5
        return Optimizer(names, [], rate, [Group(list(names), rate)], schedule)
    if options.optimizer_name == "adamw":
        rate = options.learning_rate or scale * 1e-3 * (256 / model.config.width) ** 0.5
        groups = [
            Group([parameter for parameter in names if parameter.ndim >= 2], rate, decay=0.1),
            Group([parameter for parameter in names if parameter.ndim < 2], rate),
        ]
        return Optimizer(names, [], rate, groups, schedule)
    rate = options.learning_rate or scale * 0.02
    embeddings = [parameter for parameter, name in names.items() if "embedding" in name]
    outputs = [parameter for parameter, name in names.items() if name == "output.weight"]
    # A tied embedding starts small and is the output too; where a norm follows it at once, its direction moves faster.
    factor = 0.1 if model.config.residual == "post" else 0.5 if model.config.tied or len(embeddings) > 1 else 15
    groups = [
        Group(embeddings, rate * factor),
        Group(outputs, rate * 0.15),
        Group([parameter for parameter in names if parameter.ndim < 2], rate),
    ]
    matrices = [Matrix(*found) for found in linear_maps(model)]
    groups = [group for group in groups if group.parameters]
    # Where bfloat16 is emulated, Newton-Schulz in it would take twice as long as the rest of the step.
    precision, muon = model.compute_dtype or torch.float32, None
    if processes.world > 1:
        make = ShardedMuon if sharded(model) else ReplicatedMuon
        muon = make(matrices, precision, processes)
        matrices = []
    return Optimizer(names, matrices, rate, groups, schedule, precision, muon)


def decide(
    model: Transformer,
    device: torch.device,
    options: PretrainOptions,
    dtype: str,
    processes: Processes = ALONE,
    parallel: ParallelOptions = ParallelOptions(),
) -> Decided:
    """All that is decided without timing steps, for a training on `device`; `measure` completes it."""
    precision = machine.training_dtype(dtype, device)
    rows = windows_per_step(options, model.config.layers, model.config.context)
    context = model.config.context
    at_once = max(1, machine.tokens_at_once("pretraining", device) // context)
    sizes = [size for size in range(1, min(rows, at_once) + 1) if rows % size == 0]
    memory = _activation_memory(model, device, parallel, processes)
    micro_rows, _ = decide_activations(
        parallel.checkpoint_activations, model.config, sizes, context, precision, device, memory
    )
    return Decided(
        steps=options.steps or 1,
        rows=rows,
        micro_rows=micro_rows,
        validate_every=1,
        log_every=1,
        dtype=str(precision).removeprefix("torch."),
        compiled=options.compile == "on",
        device=str(device),
        threads=torch.get_num_threads() * processes.world,
        matmul_rate=machine.matmul_rate(device, precision),
    )


def checkpoint_activations(
    decided: Decided, model: Transformer, device: torch.device, parallel: ParallelOptions, processes: Processes
) -> bool | None:
    """Whether the training on `device` is to compute activations again. It is asked at each start, as it changes no
    bit of the result."""
    dtype = getattr(torch, decided.dtype)
    sizes, memory = [decided.micro_rows], _activation_memory(model, device, parallel, processes)
    _, found = decide_activations(
        parallel.checkpoint_activations, model.config, sizes, model.config.context, dtype, device, memory
    )
    return found


def _activation_memory(
    model: Transformer, device: torch.device, parallel: ParallelOptions, processes: Processes
) -> float:
    cut = processes.world > 1 and (
        parallel.shard == "on" or (parallel.shard == "auto" and not whole_copies_fit(model, device, processes))
    )
    parts = processes.world if cut else 1
    return memory_for_activations(model, device, free_memory(device, processes), parts)


def measure(
    decided: Decided,
    model: Transformer,
    objective: Objective[Any],
    validation_tokens: int,
    options: PretrainOptions,
    started: float,
    log: Log,
    processes: Processes = ALONE,
) -> Decided:
    """Time steps on this machine where a decision depends on it; the model's weights stay as they were.

    `started` is when the run began by `time.monotonic`: --minutes counts from there. All processes make the steps, and
    the first one's clock decides.
    """
    # The cost of a validation, in steps. There is one at the end, and up to twenty if they take less than a tenth.
    validation = FORWARD_SHARE * validation_tokens / (decided.rows * model.config.context)
    if options.steps is None or options.minutes is not None:
        minutes = options.minutes or DEFAULT_MINUTES
        if options.minutes is None:
            log(f"neither --steps nor --minutes given: training for {minutes:g} minutes")
        end = started + 0.97 * 60 * minutes  # the rest is for saving
        timing = _Timing(model, objective, options, processes)
        decided, seconds = _fastest(timing, decided, lambda _: end - time.monotonic())
        affordable = processes.from_first((end - time.monotonic()) / seconds)
        steps = max(1, int(affordable - max(validation, min(20 * validation, affordable / 11))))
        decided = dataclasses.replace(decided, steps=min(steps, options.steps or steps))
        log(f"{seconds * 1000:.0f} ms a step: {steps} steps fit into {minutes:g} minutes")
    elif options.compile == "auto" and options.steps > 200:
        timing = _Timing(model, objective, options, processes)
        decided, _ = _fastest(timing, decided, lambda seconds: seconds * decided.steps)
    validate_every = options.validate_every or max(-(-decided.steps // 20), int(10 * validation), 1)
    return dataclasses.replace(decided, validate_every=validate_every, log_every=max(1, decided.steps // 500))


@dataclass(frozen=True)
class _Timing:
    """What is timed, and the processes that make the steps."""

    model: Transformer
    objective: Objective[Any]
    options: PretrainOptions
    processes: Processes

    def seconds_a_step(self, compiled: bool) -> float:
        """Mean over a few steps after the first two; the weights are then restored."""
        model, processes = self.model, self.processes
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        optimizer = make_optimizer(model, self.options, 2**30, processes)
        objective = Compiled(self.objective) if compiled else self.objective
        steps = Trainer(model, optimizer, objective, 2**30, processes=processes).steps()
        for _ in range(2):  # the first steps allocate, or compile
            float(next(steps).loss)
        start, made = time.monotonic(), 0
        while processes.from_first(made < 3 or (made < 50 and time.monotonic() - start < 2)):
            float(next(steps).loss)
            made += 1
        seconds = processes.from_first((time.monotonic() - start) / made)
        model.load_state_dict(before)
        return seconds


def _fastest(timing: _Timing, decided: Decided, seconds_ahead: Callable[[float], float]) -> tuple[Decided, float]:
    """With torch.compile or without, whichever is faster and pays off in the seconds ahead; and the seconds a step."""
    seconds = timing.seconds_a_step(decided.compiled)
    auto = timing.options.compile == "auto" and timing.options.quantize == "none"
    worth = auto and machine.compiler() and seconds_ahead(seconds) >= WORTH_COMPILING
    if not timing.processes.from_first(worth):
        return decided, seconds
    try:
        compiled_seconds = timing.seconds_a_step(compiled=True)
    except Exception:  # whatever a broken compiler raises: without it, training works
        return decided, seconds
    faster = compiled_seconds < seconds
    return dataclasses.replace(decided, compiled=faster), min(seconds, compiled_seconds)
