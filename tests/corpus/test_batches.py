"""The order of examples is a function of (seed, step), and each pass reads all there is."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule.corpus.batches import Batches, permuted, validation_windows
from chainrule.corpus.shards import Split
from chainrule.corpus.splitmix import splitmix64, uniform


def counting(directory: Path, length: int) -> Split:
    """A split whose token at each place is that place, in two shards where there are two tokens."""
    paths = []
    for number, part in enumerate(np.array_split(np.arange(length, dtype="<u4"), min(2, length))):
        paths.append(directory / f"{length}-{number}.bin")
        part.tofile(paths[-1])
    return Split(paths, "uint32", 2**32)


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_permuted_is_a_permutation(size: int, key: int):
    indices, keys = np.arange(size, dtype=np.uint64), np.full(size, key, np.uint64)
    places = permuted(indices, size, keys)
    assert sorted(places.tolist()) == list(range(size))
    alone = [permuted(indices[i : i + 1], size, keys[i : i + 1])[0] for i in range(min(size, 5))]
    assert alone == places[:5].tolist()


def test_permutations_of_other_keys_differ_and_look_random():
    size = 1000
    indices = np.arange(size, dtype=np.uint64)
    first, second = (permuted(indices, size, np.full(size, key, np.uint64)) for key in (1, 2))
    assert np.mean(first == second) < 0.02
    for places in (first, second):
        assert abs(np.corrcoef(indices, places)[0, 1]) < 0.1
        assert np.mean(np.diff(places.astype(np.int64)) == 1) < 0.02


def test_a_permutation_of_any_size_costs_nothing():
    size = 10**15
    places = permuted(np.arange(1000, dtype=np.uint64), size, np.full(1000, 7, np.uint64))
    assert len(set(places.tolist())) == 1000 and int(places.max()) < size and int(places.max()) > size // 2


@pytest.mark.parametrize(("length", "context"), [(1000, 7), (1001, 100), (23, 10), (11, 10), (50, 1)])
def test_a_pass_reads_every_window_once_from_its_own_offset(length: int, context: int, tmp_path: Path):
    batches = Batches(counting(tmp_path, length), context, seed=3)
    offsets = []
    for number in range(20):
        examples = np.concatenate(
            [batches.batch(number * batches.windows + step, 1) for step in range(batches.windows)]
        )
        assert (np.diff(examples, axis=1) == 1).all(), "a window is T + 1 tokens in a row"
        starts = np.sort(examples[:, 0])
        assert (np.diff(starts) == context).all(), "each window once, each after the one before"
        assert starts[0] < context and examples.max() < length
        offsets.append(int(starts[0]))
    assert length - batches.windows * context <= 2 * context + 1, "at most a window or two are left out"
    room = min(context, length - batches.windows * context)
    assert len(set(offsets)) > 1 or room == 1
    assert max(offsets) < room


def test_the_same_examples_whatever_the_number_of_processes(tmp_path: Path):
    batches = Batches(counting(tmp_path, 5000), 16, seed=1)
    for step in (0, 5, 77):
        whole = batches.batch(step, 12)
        for world in (2, 3, 4, 5, 13):
            parts = [batches.batch(step, 12, rank, world) for rank in range(world)]
            assert (np.concatenate(parts) == whole).all()


def test_a_batch_is_a_function_of_seed_and_step(tmp_path: Path):
    split = counting(tmp_path, 5000)
    batches = Batches(split, 16, seed=1)
    in_order = [batches.batch(step, 4) for step in range(100)]
    for step in (99, 3, 50):
        assert (Batches(split, 16, seed=1).batch(step, 4) == in_order[step]).all()
    assert (Batches(split, 16, seed=2).batch(0, 4) != in_order[0]).any()
    assert (Batches(split, 16, seed=-1).batch(0, 4) != in_order[0]).any()
    assert in_order[0].shape == (4, 17) and in_order[0].dtype == np.int64


def test_passes_count_how_often_the_text_was_read(tmp_path: Path):
    batches = Batches(counting(tmp_path, 1000), 10, seed=0)
    assert batches.windows == 98
    assert batches.passes(0, 49) == 0.5
    assert batches.passes(3, 98) == 4.0


def test_fewer_tokens_than_a_window_are_refused(tmp_path: Path):
    assert Batches(counting(tmp_path, 11), 10, seed=0).windows == 1
    with pytest.raises(ValueError, match=r"at least 11 tokens.*--context 10, got 10: .*lower --context"):
        Batches(counting(tmp_path, 10), 10, seed=0)
    with pytest.raises(ValueError, match="at least 2 tokens"):
        list(validation_windows(counting(tmp_path, 1), 10, 4))


@pytest.mark.parametrize("length", [2, 10, 11, 12, 100, 101, 111, 1000])
def test_validation_predicts_every_token_but_the_first_once(length: int, tmp_path: Path):
    windows = list(validation_windows(counting(tmp_path, length), 10, 4))
    assert all(len(window) <= 4 and window.shape[1] <= 11 for window in windows)
    assert np.concatenate([window[:, 1:].ravel() for window in windows]).tolist() == list(range(1, length))
    assert all((np.diff(window, axis=1) == 1).all() for window in windows)


def test_aligned_examples_begin_with_a_document_each_and_a_pass_reads_every_document_once(tmp_path: Path):
    split = counting(tmp_path, 1000)  # two shards of 500 tokens
    begins = [0, 3, 120, 121, 480, 500, 700, 980, 989, 990]
    for path, part in zip(
        sorted(tmp_path.glob("*.bin")), (begins[:5], [begin - 500 for begin in begins[5:]]), strict=True
    ):
        np.array(part, "<u8").tofile(path.with_suffix(".offsets"))
    batches = Batches(split, 10, seed=4, align_documents=True)
    assert batches.windows == 9  # from 990 on there are only 10 tokens left, and a window has 11
    orders = []
    for number in range(3):
        examples = np.concatenate([batches.batch(number * 3 + step, 3) for step in range(3)])
        assert (np.diff(examples, axis=1) == 1).all() and examples.shape == (9, 11)
        assert sorted(examples[:, 0].tolist()) == begins[:-1]
        orders.append(examples[:, 0].tolist())
    assert orders[0] != orders[1] and batches.passes(2, 3) == 1


def test_splitmix64_gives_its_authors_numbers_for_one_and_for_many():
    first = 0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F  # of the generator seeded with 0
    assert [uniform(number) for number in range(3)] == [word / 2**64 for word in first]
    states = np.array([0, 1, 2**64 - 1, 12345], np.uint64)
    assert splitmix64(states).tolist() == [splitmix64(state) for state in states.tolist()]
