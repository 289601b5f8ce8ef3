"""Visits as one table in memory: pandas or Arrow, imported when they are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from capture_cli.errors import UsageError
from capture_cli.runs.visits import Array, Visits, column_names

if TYPE_CHECKING:
    import pandas
    import pyarrow

    from capture_cli.runs.run import Run

_CLASSES = ("label", "pred")


def to_pandas(run: Run, columns: Sequence[str] | None, phase: str | None, epochs: Iterable[int] | None) -> pandas.DataFrame:
    """See `Run.to_pandas`."""
    try:
        import pandas as pd
    except ImportError as error:
        raise UsageError("to_pandas() needs pandas", "pip install pandas") from error
    found = {}
    for name, (values, names) in _columns(run, columns, phase, epochs).items():
        if names is None:  # object, not pandas' own type for text, which cannot hold names that are not UTF-8
            is_plain = values.ndim == 1 and values.dtype != object
            found[name] = pd.Series(values if is_plain else list(values), dtype=None if is_plain else object)
        elif len(set(names)) == len(names):
            found[name] = pd.Categorical.from_codes(values, names)
        else:  # pandas has no categories that are called the same
            found[name] = np.array(names, object)[values]
    return pd.DataFrame(found)


def to_arrow(run: Run, columns: Sequence[str] | None, phase: str | None, epochs: Iterable[int] | None) -> pyarrow.Table:
    """See `Run.to_arrow`."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise UsageError("to_arrow() needs pyarrow", "pip install pyarrow") from error
    found = {}
    for name, (values, names) in _columns(run, columns, phase, epochs).items():
        if names is not None:
            found[name] = pa.DictionaryArray.from_arrays(values.astype(np.int32), pa.array(map(_text, names), pa.string()))
        elif values.ndim == 2:
            found[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        elif name == "extra":
            found[name] = pa.array((one and json.dumps(one) for one in values), pa.string())
        elif values.dtype == object:
            found[name] = pa.array(map(_text, values), pa.string())
        else:
            found[name] = pa.array(values)
    return pa.table(found)


def _columns(
    run: Run, columns: Sequence[str] | None, phase: str | None, epochs: Iterable[int] | None
) -> dict[str, tuple[Array, Sequence[str] | None]]:
    """The columns, in order, each with the names that its numbers stand for, if they do."""
    none = Visits(run.info, "", 0, [], name=run.name)
    plain = [name for name in column_names(run.info.task, run.info.number_names or ()) if name in none]
    same = [*(["fold"] if run.info.fold else []), "phase", "epoch"]
    wanted = [*same, *plain] if columns is None else list(columns)
    read = [name for name in wanted if name not in same]
    parts: dict[str, list[Array]] = {name: [] for name in wanted}
    phases: dict[str, int] = {}
    for visits in run.visits(read, phase=phase, epochs=epochs):
        _add(visits, phases.setdefault(visits.phase, len(phases)), parts)
    if not phases:  # columns of the right kind without rows
        _add(none, 0, parts)
    names = {"phase": list(phases), **dict.fromkeys(_CLASSES, run.info.classes)}
    return {name: (np.concatenate(part), names.get(name)) for name, part in parts.items()}


def _add(visits: Visits, phase: int, parts: dict[str, list[Array]]) -> None:
    same = {"phase": phase, "epoch": visits.epoch}
    if visits.info.fold:
        same["fold"] = visits.info.fold.get("number", 0)
    for name, part in parts.items():
        part.append(np.full(len(visits), same[name], np.int64) if name in same else visits[name])


def _text(name: str) -> str:
    """A name as Arrow can hold it: bytes that are not UTF-8 are written as \\udcXX."""
    return name.encode("utf-8", "backslashreplace").decode()
