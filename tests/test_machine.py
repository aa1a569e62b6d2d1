"""What a machine is found to have, and what follows from it."""

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
