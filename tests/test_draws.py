"""Chance: it depends on seed, epoch, purpose and path, on nothing else, and it is fair."""

import os

import numpy as np
import pytest

from capture_cli.keyed_random import below, draw, epoch_order, path_keys

FILES = [f"class_{i % 10}/{i:05d}.png" for i in range(10_000)]
KEYS = path_keys(FILES)


def finaliser(number: int) -> int:
    """SplitMix64's, in whole numbers, as published."""
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) % 2**64
    return number ^ (number >> 31)


def test_the_format_does_not_drift() -> None:
    """Golden values: a change here makes the inputs of every run recorded so far impossible to make again."""
    files = ["a.png", "b.png", "sub/c.png", "caf\u00e9.png", "\udcff.png"]
    keys = path_keys(files)
    assert [f"{key:016x}" for key in keys.tolist()] == GOLDEN_KEYS
    assert draw(keys, seed=1, epoch=2, purpose="flip").tolist() == GOLDEN_DRAWS
    assert epoch_order(path_keys(FILES[:12]), seed=0, epoch=0).tolist() == GOLDEN_ORDER


GOLDEN_KEYS = ["f312fd6dc8c1eb8f", "cbf1db1125abe08e", "00cf41eccee88b8b", "ed7fe41bfb2e5340", "048191eb6b5f71b6"]
GOLDEN_DRAWS = [14137877662830249297, 15836578823664077222, 8170043623382958448, 8478686872533749537, 13817741501371645270]
GOLDEN_ORDER = [7, 0, 11, 1, 4, 3, 10, 8, 5, 6, 9, 2]


def test_a_draw_is_the_documented_formula() -> None:
    """Twice through the finaliser, with the key of the stream before each time."""
    import xxhash

    stream = xxhash.xxh3_64_intdigest(b"capture:crop:-3:7")
    expected = [finaliser((finaliser(key ^ stream) + stream) % 2**64) for key in KEYS[:100].tolist()]
    assert draw(KEYS[:100], seed=-3, epoch=7, purpose="crop").tolist() == expected


def test_paths_are_keyed_by_their_bytes() -> None:
    """Names that are not UTF-8, and names that only look alike, have keys of their own."""
    names = [os.fsdecode(b"\xff.png"), "\u00ff.png", "y\u0308.png", "\u00ff.PNG", "a/b.png", "a\\b.png", "ab.png"]
    assert len(set(path_keys(names).tolist())) == len(names)
    assert path_keys([]).shape == (0,)


def test_seeds_epochs_and_purposes_draw_apart() -> None:
    """Seed 0, epoch 1 is not seed 1, epoch 0; nor is any pair like another, for any purpose: all 250,000 numbers differ."""
    streams = [
        draw(KEYS[:1000], seed=seed, epoch=epoch, purpose=purpose)
        for seed in (0, 1, 10, 11, -1)
        for epoch in (0, 1, 10, 11, 100)
        for purpose in ("order", "flip", "crop", "peek", "1", "11", "0", "order1", "-1", "step")
    ]
    assert len(np.unique(np.concatenate(streams))) == 250 * 1000


def test_seeds_of_any_size_are_told_apart() -> None:
    """A seed is written out, never cut to 64 bits."""
    first = [draw(KEYS, seed=seed, epoch=0, purpose="order")[0] for seed in (0, 2**32, 2**64, 2**64 + 1, -(2**64))]
    assert len(set(first)) == 5


def test_a_sample_draws_the_same_in_any_company() -> None:
    """One at a time, in any order, or among all: the number is the same."""
    whole = draw(KEYS, seed=5, epoch=5, purpose="flip")
    some = np.random.default_rng(0).permutation(len(KEYS))[:500]
    assert np.array_equal(draw(KEYS[some], seed=5, epoch=5, purpose="flip"), whole[some])
    assert draw(KEYS[17:18], seed=5, epoch=5, purpose="flip")[0] == whole[17]


def test_draws_are_uniform() -> None:
    """Each of the 64 bits is set in half of the numbers, each pair of bits agrees in half; 5 standard deviations."""
    numbers = draw(KEYS, seed=0, epoch=0, purpose="flip")
    bits = ((numbers[:, np.newaxis] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)).astype(np.float64) * 2 - 1
    bound = 5 / len(KEYS) ** 0.5
    assert np.abs(bits.mean(0)).max() < bound
    assert np.abs(bits.T @ bits / len(KEYS) - np.eye(64)).max() < bound


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("limit", [1, 2, 3, 9, 57])
def test_below_is_uniform(limit: int, half: int) -> None:
    """Every number below the limit comes as often as any other (chi squared), and no other comes."""
    counts = np.bincount(below(draw(KEYS, seed=0, epoch=0, purpose="crop"), limit, half=half), minlength=limit)
    expected = len(KEYS) / limit
    assert len(counts) == limit
    assert ((counts - expected) ** 2 / expected).sum() < limit + 5 * (2 * limit) ** 0.5


def test_an_order_is_a_permutation() -> None:
    """Each sample is visited once an epoch, in another order each time."""
    orders = [epoch_order(KEYS, seed=seed, epoch=epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    for order in orders:
        assert order.dtype == np.int64
        assert np.array_equal(np.sort(order), np.arange(len(KEYS)))
    for i, order in enumerate(orders):
        for other in orders[:i]:
            assert (order == other).sum() < 10  # about one in so many places by chance
            assert abs(np.corrcoef(order, other)[0, 1]) < 5 / len(KEYS) ** 0.5
    assert len(epoch_order(KEYS[:0], seed=0, epoch=0)) == 0


def test_more_files_do_not_reorder_the_others() -> None:
    """The files that were there before come in the same order among themselves, wherever the new ones stand in the list."""
    old = FILES[::3]
    before = [old[i] for i in epoch_order(path_keys(old), seed=0, epoch=4)]
    after = [FILES[i] for i in epoch_order(KEYS, seed=0, epoch=4) if i % 3 == 0]
    assert before == after


def test_equal_keys_keep_the_order_they_have() -> None:
    """Should two paths ever hash alike, the order is still one and the same everywhere."""
    keys = np.array([7, 7, 7, 3], np.uint64)
    order = epoch_order(keys, seed=0, epoch=0).tolist()
    assert [i for i in order if i < 3] == [0, 1, 2]
