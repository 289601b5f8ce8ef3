"""A data set for tests of ids: N samples in one of the usual forms, whose inputs are their indices.

Rows("dict")[7]                             # {"x": tensor([7.0, 7.0]), "y": 1}
"""

from typing import Any

import torch
from torch.utils.data import Dataset

N, CLASSES = 50, 3


class Rows(Dataset[Any]):
    """N samples in one of the usual forms; each input is its index."""

    classes = ("ant", "bee", "cat")

    def __init__(self, form: str) -> None:
        self.form = form

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        if not -N <= index < N:
            raise IndexError(index)
        x, y = torch.full((2,), float(index % N)), index % CLASSES
        return {
            "tuple": (x, y),
            "list": [x, y],
            "dict": {"x": x, "y": y},
            "bare": x,
            "one": (x,),
            "nested": ((x, x + 1), y),
        }[self.form]
