"""Differences between two records, by the names of their fields.

first_difference(one_line, other_line)      # "losses"
changes(run_before, run_now)                # [Change("config.lr", 0.001, 0.01)]
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from capture_cli.records import RunInfo
from capture_cli.records.values import loads


def first_difference(one: bytes, other: bytes) -> str:
    """Return the first field in which two lines differ: `chain` where only an earlier line differs."""
    left, right = loads(one), loads(other)
    for name in [*left, *(name for name in right if name not in left)]:
        if left.get(name) != right.get(name):
            return name
    return "bytes"


class Change(NamedTuple):
    """One value that differs between two run records."""

    name: str
    """The field and the key in it: `config.lr`, `images.listing_digest`, `threads`."""
    was: Any
    """None where it is absent, like `now`."""
    now: Any

    def __str__(self) -> str:
        """Return a clause for people."""
        if all(isinstance(value, Sequence) and not isinstance(value, str) for value in (self.was, self.now)):
            return f"{self.name} were {', '.join(map(str, self.was))}, are {', '.join(map(str, self.now))}"
        was, now = ("not set" if value is None else value for value in (self.was, self.now))
        return f"{self.name} was {was}, is {now}"


def changes(before: RunInfo, after: RunInfo) -> list[Change]:
    """List the differences between two run records, in the order of the format.

    The recipe names the augmentations in one way: `config.augment` may spell the same ones `crop,flip` or `flip+crop`.
    """
    found: list[Change] = []
    same_augment = before.recipe.get("augment") is not None and before.recipe["augment"] == after.recipe.get("augment")
    for name in (field.name for field in fields(RunInfo)):
        was, now = getattr(before, name), getattr(after, name)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            keys = dict.fromkeys([*was, *now])
            found += [Change(f"{name}.{key}", was.get(key), now.get(key)) for key in keys if was.get(key) != now.get(key)]
        elif was != now:
            found.append(Change(name, was, now))
    return [change for change in found if not (same_augment and change.name == "config.augment")]
