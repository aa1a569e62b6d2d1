"""What a machine is found to have, and what follows from it."""

import sys
import time
from pathlib import Path

import pytest
import torch

from chainrule import machine

CPU = torch.device("cpu")
matmul_rate = machine.matmul_rate  # as it is, before conftest.py replaces it


@pytest.mark.parametrize(("faster", "dtype"), [(0.2, torch.float32), (1.4, torch.float32), (1.6, torch.bfloat16)])
def test_training_is_in_bfloat16_only_where_that_multiplies_much_faster(
    faster: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "matmul_rate", lambda _, dtype: 1e11 * (faster if dtype == torch.bfloat16 else 1))
    assert machine.training_dtype("auto", CPU) == dtype
    assert machine.training_dtype("float32", CPU) == torch.float32
    assert machine.training_dtype("bfloat16", CPU) == torch.bfloat16


def test_a_rate_is_measured_once_and_is_one_that_processors_have() -> None:
    measured = matmul_rate(CPU, torch.float32)
    assert 1e7 < measured < 1e16
    assert matmul_rate(CPU, torch.float32) == measured


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_released_threads_end_and_are_there_again_when_they_are_needed() -> None:
    def count() -> int:
        return sum(1 for _ in Path("/proc/self/task").iterdir())

    threads, values = torch.get_num_threads(), torch.linspace(-1, 1, 2**18)
    torch.set_num_threads(2)
    try:
        wanted, there = values.exp(), count()
        machine.release_threads()
        end = time.monotonic() + 10
        while count() == there and time.monotonic() < end:
            time.sleep(0.01)
        assert count() < there
        assert torch.equal(values.exp(), wanted) and count() == there
    finally:
        torch.set_num_threads(threads)
