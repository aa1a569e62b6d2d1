"""Steps of decoding whose shapes do not depend on how long the sequences are: a GPU replays them as CUDA graphs.

A step is for a bucket: the first rows and columns of the cache, at least as many as the running sequences need. What
changes from step to step is on the device, in the same tensors: the newest tokens, the lengths, keys and values. What
is then computed, and where, is the same at each step of a bucket, so that its kernels need not be launched one by one.
Rows without a sequence compute what nobody reads, and write it where no sequence is.

Shapes: B running sequences, R rows (at least B) and C columns of a bucket, D width.
"""

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import cache, partial
from operator import is_
from typing import Protocol

import torch
from torch import Tensor, nn

from chainrule.machine import overwrite
from chainrule.model.adapter import AdaptedLinear
from chainrule.model.batch_cache import BatchCache
from chainrule.model.layers import hooked
from chainrule.model.transformer import Transformer

log = logging.getLogger(__name__)

_FEWEST_COLUMNS = 256  # of a bucket: fewer would make a step hardly faster
_WARM_UPS = 2  # steps of a bucket before it is recorded: short texts are not worth a recording
_MOST = 64  # buckets are kept, those used last

Step = Callable[[], None]


class Recorder(Protocol):
    """Records what a step computes, to compute it again from the values that the same tensors have later."""

    def warm_up(self, step: Step) -> None:
        """Do a step, so that what libraries set up at their first use is not recorded."""

    def record(self, step: Step) -> Step:
        """A function that does the step; recording it may not. Raises RuntimeError where it cannot be recorded."""


def bucket_size(count: int, capacity: int) -> int:
    """The least of 1, 2, 3, 4, 6, 8, 12, 16, … that is at least `count`, and at most `capacity`.

    >>> [bucket_size(count, 100) for count in (1, 5, 7, 33, 50, 97)]
    [1, 6, 8, 48, 64, 100]
    """
    double = 1 << (count - 1).bit_length()
    return min(capacity, double // 4 * 3 if count <= double // 4 * 3 else double)


class FixedSteps:
    """The steps of one model and one cache at a time. Without a recorder they are computed anew each time.

    A recorded step is dropped where the cache or a weight is elsewhere in memory. A weight's new values count at once;
    a hook that is registered later does not.
    """

    def __init__(self, model: Transformer, recorder: Recorder | None) -> None:
        self.model, self.recorder = model, recorder
        self._buckets: dict[tuple[int, int], _Bucket] = {}  # by rows and columns, those used last at the end
        self._cache_at: tuple[object, ...] = ()  # what the recorded steps read and write
        self._weights: _Weights | None = None
        self._impossible = False

    def features(self, newest: Sequence[int], cache: BatchCache) -> Tensor | None:
        """φ (B, D) at the newest token of each sequence, valid until the next call; the tokens are added to the cache.
        None, and nothing is added, where this model's steps cannot be recorded."""
        if self._impossible:
            return None
        self._forget_moved_cache(cache)
        bucket = self._bucket(cache)
        spare = [0] * (bucket.rows - len(newest))
        overwrite(bucket.inputs, torch.tensor([[*newest, *spare], [*cache.lengths, *spare]]))
        self._do(bucket, partial(self._compute, bucket, cache))
        if self._impossible:
            return None
        if bucket.replay is not None and self._weights is not None and self._weights.moved():
            # Asked only now, while the device computes: what was replayed is of no use, and computed anew.
            self._buckets, self._weights = {}, None
            return self.features(newest, cache)
        cache.length += 1
        return bucket.features[: len(newest)]

    def _bucket(self, cache: BatchCache) -> "_Bucket":
        rows, columns = cache.capacity
        size = bucket_size(len(cache), rows), bucket_size(max(_FEWEST_COLUMNS, cache.length + 1), columns)
        bucket = self._buckets.pop(size, None)
        if bucket is None:
            bucket = _Bucket(*size, self.model)
            for unused in list(self._buckets)[: 1 - _MOST]:
                del self._buckets[unused]
        self._buckets[size] = bucket
        return bucket

    def _compute(self, bucket: "_Bucket", cache: BatchCache) -> None:
        tokens, lengths = bucket.inputs
        seen = cache.bucket(bucket.rows, bucket.columns, lengths)
        bucket.features.copy_(self.model.features(tokens[:, None], seen)[:, 0])

    def _do(self, bucket: "_Bucket", step: Step) -> None:
        if self.recorder is None:
            step()
            return
        if bucket.replay is None and bucket.warm_ups == _WARM_UPS:
            self._record(self.recorder, bucket, step)
        if bucket.replay is not None:
            bucket.replay()
        elif not self._impossible:
            self.recorder.warm_up(step)
            bucket.warm_ups += 1

    def _record(self, recorder: Recorder, bucket: "_Bucket", step: Step) -> None:
        reason = _obstacle(self.model)
        if reason is None:
            try:
                bucket.replay = recorder.record(step)
            except RuntimeError as error:
                reason = (str(error) or type(error).__name__).splitlines()[0]
        if reason is not None:
            _say_once(f"decoding goes on without CUDA graphs: {reason}")
            self._impossible, self._buckets = True, {}
        elif self._weights is None:
            self._weights = _Weights(self.model)

    def _forget_moved_cache(self, cache: BatchCache) -> None:
        """Drop the recorded steps where the cache has other memory."""
        if self.recorder is None:
            return
        keys, values, model = cache.keys, cache.values, self.model
        cache_at = (keys.data_ptr(), values.data_ptr(), keys.shape, keys.dtype, model.dtype, model.compute_dtype)
        if cache_at != self._cache_at:
            self._buckets, self._cache_at, self._weights = {}, cache_at, None


class _Bucket:
    """What a step of some rows and columns takes and gives, always in the same memory. It keeps no cache alive."""

    def __init__(self, rows: int, columns: int, model: Transformer) -> None:
        self.rows, self.columns = rows, columns
        self.inputs = torch.zeros(2, rows, dtype=torch.long, device=model.device)  # newest tokens and lengths
        dtype = model.compute_dtype or model.dtype
        self.features = torch.empty(rows, model.config.width, dtype=dtype, device=model.device)
        self.warm_ups = 0
        self.replay: Step | None = None


class _Weights:
    """Which modules and tensors a model has, and where those are. Values that change in place make no difference.

    Their memory is kept, so that a recorded step may still be replayed where they are elsewhere by now.
    """

    def __init__(self, model: nn.Module) -> None:
        held = [
            (each, name)
            for module in model.modules()
            for each in (module._modules, module._parameters, module._buffers)
            for name in each
        ]
        self._held, self._found = held, [each[name] for each, name in held]
        self._tensors = [found for found in self._found if isinstance(found, Tensor)]
        self._pointers = [tensor.data_ptr() for tensor in self._tensors]
        self._memory = [tensor.untyped_storage() for tensor in self._tensors]

    def moved(self) -> bool:
        """Whether one is another, or elsewhere, than at first."""
        same = all(map(is_, [each.get(name) for each, name in self._held], self._found))
        return not same or [tensor.data_ptr() for tensor in self._tensors] != self._pointers


def _obstacle(model: Transformer) -> str | None:
    """Why a replayed step might not be what the model computes, if it might not."""
    if hooked(*model.modules()):
        return "the model has hooks, which a graph would not call"
    if any(isinstance(module, AdaptedLinear) and module.converted is not None for module in model.modules()):
        return "weights beside adapters are converted to the precision of the activations"
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.device != model.device for tensor in tensors):
        return "not all weights are on the same device"
    return None


@cache
def _say_once(message: str) -> None:
    log.warning(message)


_RECORDING = threading.Lock()  # a process records one graph at a time


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all: cuBLAS keeps memory for each stream that it was used on."""
    return torch.cuda.Stream(device)


class CudaGraphs:
    """Records steps as CUDA graphs, which share the memory of intermediate tensors: one is replayed at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._latest: weakref.ref[torch.cuda.CUDAGraph] | None = None

    def warm_up(self, step: Step) -> None:
        """Do a step on the stream on which steps are recorded."""
        stream, current = _side_stream(self.device), torch.cuda.current_stream(self.device)
        with _RECORDING:  # a recording of another thread would take this step into its graph
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                step()
            current.wait_stream(stream)

    def record(self, step: Step) -> Step:
        """A function that does the step. RuntimeError for a step that waits for the device or copies from the CPU."""
        graph, stream = torch.cuda.CUDAGraph(), _side_stream(self.device)
        latest = None if self._latest is None else self._latest()
        pool = None if latest is None else latest.pool()  # of a graph that is still there
        recording = torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local")
        # `torch.cuda.graph` alone would leave its stream the current one where a recording fails.
        with _RECORDING, torch.cuda.stream(stream), recording:
            step()
        self._latest = weakref.ref(graph)
        return graph.replay
