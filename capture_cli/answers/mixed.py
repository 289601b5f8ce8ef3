"""Visits whose inputs were mixed (mixup, cutmix): each tells about the sample that its input mostly shows.

    rows = shown_rows(visits)       # None: nothing was mixed
    rows[17]                        # 16: the input of row 17 is mostly that of row 16; -1: of neither
    columns = columns_of(visits, probs, rows)

An even mixture tells nothing of either label: the network is right to predict both. Read as visits of their own samples,
mixed inputs cost the ranking of wrong labels a tenth to a quarter of its average precision: with mixup 0.867 and with cutmix
0.741 in one run on digits, in place of 0.993 and 0.981. docs/answers.md has what it is now.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from capture_cli.mixing import Mix
from capture_cli.records import Batch
from capture_cli.runs import Visits
from capture_cli.runs.visits import SMALLEST, margins

LEAST = 0.7
"""Share of an input that one sample must make up."""


def shown_rows(visits: Visits) -> npt.NDArray[np.int64] | None:
    """[N] the row whose sample makes up most of each input, -1 for none; None where nothing was mixed. Raises RecordsError."""
    mixed = [line.block.find(b',"mix":{', line.start, line.end) >= 0 for line in visits.lines]
    if not any(mixed):
        return None
    rows = np.arange(len(visits))
    for number in np.flatnonzero(mixed).tolist():
        batch, start = visits.record(number), int(visits.starts[number])
        if isinstance(batch, Batch) and batch.mix is not None:
            mix = Mix.from_json(batch.mix, size=len(batch.labels))
            inside = rows[start : start + len(batch.labels)]
            if mix.weight <= 1 - LEAST:
                inside[:] = start + np.asarray(mix.partners)
            elif mix.weight < LEAST:
                inside[:] = -1
    return rows


def columns_of(visits: Visits, probs: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
    """The columns `loss`, `p_label`, `margin` and `probs` of the inputs that show a sample, for that sample's label.

    `probs` [N, C] are those of all rows; what comes back has a value for each of `rows` that is not -1, in their order.
    """
    used = np.flatnonzero(rows >= 0)
    labels, probs = visits["label"][rows[used]], probs[used]
    is_own = rows[used] == used
    p_label = np.where(is_own, visits["p_label"][used], probs[np.arange(len(used)), labels])
    losses = np.where(is_own, visits["loss"][used], -np.log(np.maximum(p_label, SMALLEST))).astype(np.float32)
    return {"loss": losses, "p_label": p_label, "margin": margins(losses, labels, probs, None), "probs": probs}
