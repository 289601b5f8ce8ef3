"""Ids that travel with the samples."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, Subset, random_split

from capture_cli import identified
from capture_cli.errors import UsageError
from capture_cli.recorder.identified import Pair
from index_rows import N, Rows


class Many(Rows):
    """A dataset that returns several samples at once."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


def inputs_and_ids(batch: Any) -> tuple[torch.Tensor, Any]:
    """Return inputs and labels of a batch of any of these forms."""
    if isinstance(batch, dict):
        return batch["x"], batch["id"]
    first = batch[0]
    return (first[0] if isinstance(first, list | tuple) else first), batch[-1]


class TestIdentified:
    """Datasets whose samples end in their ids."""

    @pytest.mark.parametrize("workers", [0, 2])
    @pytest.mark.parametrize("form", ["tuple", "list", "dict", "bare", "one", "nested"])
    @pytest.mark.parametrize("named", [False, True])
    def test_ids_stay_with_their_samples(self, form: str, workers: int, named: bool) -> None:
        """Shuffled, with and without workers, in every form, integers and strings: every id is the sample's own."""
        data = identified(Rows(form), ids=[f"row {i}" for i in range(N)] if named else None)
        seen = []
        for batch in DataLoader(data, batch_size=8, shuffle=True, num_workers=workers):
            inputs, ids = inputs_and_ids(batch)
            numbers = [int(one.removeprefix("row ")) if named else int(one) for one in ids]
            assert inputs[:, 0].tolist() == numbers
            seen += numbers
        assert sorted(seen) == list(range(N))
        assert seen != sorted(seen)

    def test_a_dataset_that_returns_many_samples_is_called_once(self) -> None:
        """As the DataLoader does."""
        batch = next(iter(DataLoader(identified(Many("tuple")), batch_size=5, shuffle=True)))
        assert batch[0][:, 0].tolist() == batch[-1].tolist()

    def test_subsets_and_splits_keep_the_ids_of_the_whole(self) -> None:
        """identified inside gives the index in the whole dataset, outside the index in the part."""
        part = Subset(identified(Rows("tuple")), [7, 3, 9])
        ids = [inputs_and_ids(batch)[1].tolist() for batch in DataLoader(part, batch_size=3)]
        assert ids == [[7, 3, 9]]
        one, other = random_split(identified(Rows("tuple")), [30, 20], generator=torch.Generator().manual_seed(0))
        found = [sample[-1] for sample in [*one, *other]]
        assert sorted(found) == list(range(N))
        assert all(sample[0][0] == sample[-1] for sample in one)
        assert [sample[-1] for sample in identified(Subset(Rows("tuple"), [7, 3, 9]))] == [0, 1, 2]  # type: ignore[attr-defined]

    def test_all_other_attributes_are_the_datasets(self) -> None:
        """Length, attributes, negative and NumPy indices, and pickling, which spawned workers need."""
        data = pickle.loads(pickle.dumps(identified(Rows("tuple"), ids=[f"{i}.png" for i in range(N)])))  # noqa: S301
        assert (len(data), data.classes) == (N, Rows.classes)
        assert data[-1][-1] == data[np.int64(N - 1)][-1] == f"{N - 1}.png"
        with pytest.raises(AttributeError):
            _ = data.nothing_of_that_name

    def test_a_sample_of_another_form_becomes_a_pair(self) -> None:
        """It collates to a pair."""
        data = identified(Rows("bare"))
        assert isinstance(data[3], Pair)
        assert data[3].id == 3
        assert isinstance(next(iter(DataLoader(data, batch_size=4))), Pair)

    @pytest.mark.parametrize("ids", [list(range(10, 10 + N)), np.arange(10, 10 + N), tuple(f"{i}" for i in range(N))])
    def test_ids_may_come_in_any_sequence(self, ids: Any) -> None:
        """Integers, an array, strings."""
        assert identified(Rows("tuple"), ids=ids)[2][-1] == ids[2]

    @pytest.mark.parametrize(
        ("dataset", "ids", "said"),
        [
            (Rows("tuple"), [1, 2], r"ids: 2 ids for 50 samples"),
            (Rows("tuple"), [0] * N, r"ids: several samples have the id 0"),
            (Rows("tuple"), [f"{i % 49}" for i in range(N)], r"ids: several samples have the id '0'"),
            (Rows("tuple"), [Path(f"{i}") for i in range(N)], r"ids are neither all integers"),
            (Rows("tuple"), [1.5 * i for i in range(N)], r"ids are neither all integers"),
            ([(1, 2)].__iter__(), None, r"dataset: a list_iterator has no length and index"),
        ],
    )
    def test_samples_that_cannot_be_told_apart_are_refused(self, dataset: Any, ids: Any, said: str) -> None:
        """Too few ids, repeated ids, ids of a wrong type, no index: one line names the problem."""
        with pytest.raises(UsageError, match=said):
            identified(dataset, ids=ids)

    def test_an_iterable_dataset_has_no_index(self) -> None:
        """The message names the way out."""

        class Stream(IterableDataset[Any]):
            def __iter__(self) -> Iterator[int]:
                return iter(range(3))

        with pytest.raises(UsageError, match="a Stream has no length and index") as caught:
            identified(Stream())
        assert "yield ids with the samples" in caught.value.hint

    def test_a_field_called_id_is_not_overwritten(self) -> None:
        """Nor is a wrong return value of __getitems__ accepted."""

        class WithId(Rows):
            def __getitem__(self, index: int) -> Any:
                return {"id": f"q{index}", "x": 1}

        class Columns(Rows):
            def __getitems__(self, indices: list[int]) -> Any:
                return {"x": torch.ones(len(indices)), "y": torch.ones(len(indices))}

        with pytest.raises(UsageError, match="sample 3 has a field 'id' already"):
            identified(WithId("dict"))[3]
        with pytest.raises(UsageError, match=r"Columns.__getitems__ does not return a list of samples"):
            identified(Columns("dict")).__getitems__([0, 1])
