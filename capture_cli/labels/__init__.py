"""A folder of images as names, labels and splits. No pixels: no file is opened to scan a folder.

    found = scan(Path("photos"))           # rule, classes, files, labels, splits, and what was left out
    for text in warnings(found): ...       # what is allowed and probably not meant

What it promises:

* Everything below the folder is either an image of the scan or one entry in `skipped`, with a reason:

      hidden              the name begins with a dot; such a folder is one entry and is not entered
      symlink             a symbolic link, wherever it leads; it is neither followed nor looked at
      run-folder          a sub-folder with records.jsonl and events.jsonl in it, which capture wrote; not entered
      not-a-regular-file  a FIFO, socket or device, or a folder whose name ends like an image's
      unsupported-extension  a file that does not end like an image (labels.ENDINGS)
      unreadable          a folder that cannot be listed (the detail is the errno, `EACCES`), an entry that has no type
      missing             a folder that was removed while its parent was listed
      no-label            the rule finds no label, with unmatched="skip"
      unknown-class       a label that is not among the classes asked for, with unmatched="skip"

  A folder's entry ends in `/`. Reading a file later adds the reasons of capture_cli.sources.access and capture_cli.pixels.
* Names are data. A path is the bytes on disk decoded as UTF-8 with surrogateescape, whatever the locale; names that differ
  only in case or in Unicode's normal forms are different files.
* The same tree gives the same scan: nothing depends on the order in which the system lists names.
* Splits are stable: `val` if a hash of the relative path, read as a number in [0, 1), is below `val_split`. Adding or
  removing files moves no other, with one exception: a class that would have no training image keeps the one with the
  largest hash in `train`.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from capture_cli.errors import DataError, Unusable, UsageError
from capture_cli.labels.rules import (
    ENDINGS,
    RULES,
    SPLIT_NAMES,
    Rule,
    choose_rule,
    is_image,
    natural_order,
    other_rules,
    parse_rule,
)
from capture_cli.sources.access import beneath, opened, path_parts, unusable
from capture_cli.sources.access import read_file as read_file

if TYPE_CHECKING:
    from capture_cli.records import Skip

VAL_SPLIT = 0.2
UNMATCHED = ("error", "skip")

_OURS = {"records.jsonl", "events.jsonl"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a folder would become. `files`, `labels` and `splits` have one item for each of the N images, in the same order."""

    folder: Path
    """As it was given."""
    files: list[str]
    """Relative to the folder, `/` between the parts, in natural order (2 before 10)."""
    labels: list[int]
    """Indices into `classes`."""
    classes: list[str]
    """In natural order, or in the order in which they were asked for."""
    rule: Rule
    skipped: list[Skip]
    """What was left out, in the order of the paths."""
    splits: list[str]
    """`train` or `val`; `test` for all where classes were asked for."""

    @property
    def rule_sentence(self) -> str:
        """Which rule gave the labels, why, and how to choose another; names in it are not escaped."""
        rule, file, name = self.rule, self.files[0], self.classes[self.labels[0]]
        return (
            f"labels by the rule {rule.name} ({rule.meaning}), because {rule.why}: '{file}' is of class '{name}'; "
            f"--labels {'|'.join(text for text in RULES if text != rule.name)} chooses another"
        )

    def per_class(self) -> list[ClassCount]:
        """How many images each class has, in the order of `classes`."""
        counts = Counter(zip(self.labels, self.splits, strict=True))
        examples: dict[int, str] = {}
        for label, file in zip(self.labels, self.files, strict=True):
            examples.setdefault(label, file)
        return [
            ClassCount(name, counts[i, "train"], counts[i, "val"], counts[i, "test"], examples.get(i))
            for i, name in enumerate(self.classes)
        ]


@dataclass(frozen=True, slots=True)
class ClassCount:
    """One class of a scan: images by split, and its first file (None where it has none)."""

    name: str
    train: int
    val: int
    test: int
    example: str | None

    @property
    def images(self) -> int:
        """Images of the class in all splits."""
        return self.train + self.val + self.test


def scan(
    folder: Path,
    *,
    labels: str = "auto",
    unmatched: str = "error",
    val_split: float = VAL_SPLIT,
    classes: Sequence[str] | None = None,
) -> Scan:
    """List `folder` and its sub-folders, label every image and divide them into `train` and `val`.

    `labels` is a rule (capture_cli.labels.rules.RULES), `unmatched` what becomes of files that it does not fit: `error` or
    `skip`. With `classes`, as when a trained model is evaluated, labels are indices into these, one class is enough, a label
    that is not among them is treated as `unmatched` says, and every split is `test`.

    Raises UsageError for an option or folder that cannot be honoured, DataError where no two classes can be had.
    """
    asked = parse_rule(labels)
    if unmatched not in UNMATCHED:
        raise UsageError(f"--unmatched {unmatched} cannot be honoured", f"it takes {' or '.join(UNMATCHED)}")
    if not 0 <= val_split < 1:
        raise UsageError(f"--val-split {val_split} cannot be honoured", "it takes a share from 0 up to, not including, 1")
    with opened(folder) as descriptor:
        found, skipped = _walk(descriptor)
    if not found:
        raise _no_images(folder, skipped)
    found = natural_order(found)
    rule = asked or choose_rule(found)
    named, unlabelled = _label(found, rule, unmatched)
    known = _classes(named, rule) if classes is None else list(classes)
    if classes is not None:
        unlabelled += _take_out_unknown(named, known, unmatched)
    index = {name: i for i, name in enumerate(known)}
    files, numbers = list(named), [index[name] for name in named.values()]
    return Scan(
        folder=folder,
        files=files,
        labels=numbers,
        classes=known,
        rule=rule,
        skipped=sorted(skipped + unlabelled, key=lambda skip: skip.file),
        splits=_splits(files, numbers, val_split) if classes is None else ["test"] * len(files),
    )


def warnings(found: Scan) -> list[str]:
    """What the scan of a folder to train on allows and its owner probably does not mean; one sentence each, names unescaped."""
    if "test" in found.splits:
        return []
    return [text for check in (_lonely, _twins, _merged_splits, _merged_folders) for text in check(found)]


def _lonely(found: Scan) -> list[str]:
    lonely = [c for c in found.per_class() if c.images == 1]
    if not lonely:
        return []
    if len(lonely) == len(found.classes):
        return [
            f"every class has one image only: is '{lonely[0].name}' the label of '{lonely[0].example}', or a running number? "
            f"If it is one, {_others(found.files, found.rule)}"
        ]
    names = _five([c.name for c in lonely])
    return [f"{_count(len(lonely), 'class', 'classes')} with one image only, which is trained on and never validated: {names}"]


def _twins(found: Scan) -> list[str]:
    alike: dict[str, list[str]] = defaultdict(list)
    for name in found.classes:
        alike[unicodedata.normalize("NFC", name).casefold().strip()].append(name)
    return [
        f"classes that differ only in case, blanks or Unicode form: {_five(names)}"
        for names in alike.values()
        if len(names) > 1
    ]


def _merged_splits(found: Scan) -> list[str]:
    parts = {part for folder in {file.rpartition("/")[0] for file in found.files} for part in folder.split("/")}
    names = natural_order(part for part in parts - set(found.classes) if part.casefold() in SPLIT_NAMES)
    if len(names) < 2:
        return []
    return [f"the folders {_five(names)} are taken together and divided anew; name one of them to train on that alone"]


def _merged_folders(found: Scan) -> list[str]:
    if found.rule.name != "parent":
        return []
    places: dict[str, list[str]] = defaultdict(list)
    for folder in natural_order({file.rpartition("/")[0] for file in found.files}):
        above, _, name = folder.rpartition("/")
        if SPLIT_NAMES.isdisjoint(above.casefold().split("/")):
            places[name].append(folder)
    merged = [_five(folders) for folders in places.values() if len(folders) > 1]
    if not merged:
        return []
    more = f", and {len(merged) - 1:,} more such" if len(merged) > 1 else ""
    return [
        f"folders of the same name are one class: {merged[0]}{more}; "
        "with --labels '^(?P<label>[^/]+)/' the first folder of the path is the class"
    ]


def _walk(root: int) -> tuple[list[str], list[Skip]]:
    """The relative paths of all images below `root`, and what else lies there."""
    from capture_cli.records import Skip

    files: list[str] = []
    skipped: list[Skip] = []
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            with beneath(root, path_parts(folder[:-1]) if folder else []) as descriptor, os.scandir(descriptor) as entries:
                kinds = {_text(entry.name): _kind(entry) for entry in entries}
        except (OSError, Unusable) as error:
            problem = unusable(error) if isinstance(error, OSError) else error
            if not isinstance(problem, Unusable):
                raise problem from error
            if not folder:
                raise DataError(f"the folder cannot be listed: {problem.detail or problem.reason}") from error
            skipped.append(Skip(file=folder, reason=problem.reason, detail=problem.detail))
            continue
        if folder and all(kinds.get(name) == "unsupported-extension" for name in _OURS):
            skipped.append(Skip(file=folder, reason="run-folder"))
            continue
        for name, kind in kinds.items():
            if kind == "image":
                files.append(folder + name)
            elif kind == "folder":
                pending.append(f"{folder}{name}/")
            else:
                reason = kind.rstrip("/")
                skipped.append(Skip(file=folder + name + kind[len(reason) :], reason=reason))
    return files, skipped


def _text(name: str) -> str:
    """A name as the bytes on disk say in UTF-8, whatever the locale made of them."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "surrogateescape")


def _kind(entry: os.DirEntry[str]) -> str:
    """`image`, `folder`, or the reason to leave it out, with `/` behind it for a folder."""
    try:
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.name.startswith("."):
            return "hidden/" if is_folder else "hidden"
        if entry.is_symlink():
            return "symlink"
        if is_folder:
            return "not-a-regular-file/" if is_image(entry.name) else "folder"
        if not entry.is_file(follow_symlinks=False):
            return "not-a-regular-file"
    except OSError:  # where a listing has no types, each is asked for and may fail
        return "unreadable"
    return "image" if is_image(entry.name) else "unsupported-extension"


def _label(files: Sequence[str], rule: Rule, unmatched: str) -> tuple[dict[str, str], list[Skip]]:
    """File -> class name in the order of `files`, and those without. Raises DataError for these unless they are skipped."""
    from capture_cli.records import Skip

    labels = [(file, rule.label_of(file)) for file in files]
    named = {file: label for file, label in labels if label is not None}
    without = [file for file, label in labels if label is None]
    if not named:
        raise DataError(
            f"no label by the rule {rule.name} in any of {_images(len(files))}: {_five(without)}", _others(files, rule)
        )
    if without and unmatched == "error":
        raise DataError(
            f"{len(without):,} of {_images(len(files))} have no label by the rule {rule.name}: {_five(without)}",
            f"leave them out with --unmatched skip, or {_others(files, rule)}",
        )
    return named, [Skip(file=file, reason="no-label", detail=rule.name) for file in without]


def _classes(named: dict[str, str], rule: Rule) -> list[str]:
    classes = natural_order(set(named.values()))
    if len(classes) < 2:
        raise DataError(
            f"one class only: by the rule {rule.name}, {_images(len(named))} of class '{classes[0]}' and of no other",
            _others(list(named), rule),
        )
    return classes


def _take_out_unknown(named: dict[str, str], classes: Sequence[str], unmatched: str) -> list[Skip]:
    """Remove from `named` what is of no class in `classes`. Raises DataError unless these are skipped and others are left."""
    from capture_cli.records import Skip

    known = set(classes)
    unknown = {file: label for file, label in named.items() if label not in known}
    if unknown and (unmatched == "error" or len(unknown) == len(named)):
        raise DataError(
            f"{len(unknown):,} of {_images(len(named))} are of classes that the model does not know: "
            f"{_five(natural_order(set(unknown.values())))}",
            f"it knows {_five(classes)}" + "; leave the others out with --unmatched skip" * (unmatched == "error"),
        )
    for file in unknown:
        del named[file]
    return [Skip(file=file, reason="unknown-class", detail=label) for file, label in unknown.items()]


def _splits(files: Sequence[str], labels: Sequence[int], val_split: float) -> list[str]:
    values = [_hash(file) for file in files]
    splits = ["val" if value < val_split else "train" for value in values]
    trained = {label for label, split in zip(labels, splits, strict=True) if split == "train"}
    kept: dict[int, int] = {}  # label -> its file with the largest hash
    for i, label in enumerate(labels):
        if label not in trained and (label not in kept or values[i] > values[kept[label]]):
            kept[label] = i
    for i in kept.values():
        splits[i] = "train"
    return splits


def _hash(file: str) -> float:
    """A number in [0, 1) that is a function of the relative path alone: 53 bits of BLAKE2b, all that a float holds exactly."""
    digest = blake2b(file.encode("utf-8", "surrogateescape"), digest_size=8, key=b"capture split").digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def _no_images(folder: Path, skipped: Sequence[Skip]) -> DataError:
    if not skipped:
        return DataError(f"the folder '{folder}' is empty", f"put images into it: {', '.join(ENDINGS)}")
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in Counter(skip.reason for skip in skipped).most_common())
    return DataError(
        f"no images in the folder '{folder}'; left out: {reasons}, such as '{skipped[0].file}'",
        f"images end in {', '.join(ENDINGS)}, links are not followed",
    )


def _others(files: Sequence[str], rule: Rule) -> str:
    """The way on from a rule that does not do: those that find two classes or more."""
    others = [f"--labels {t.rule.name} ({t.classes:,} classes)" for t in other_rules(files, rule)]
    if others:
        return f"choose another rule: {', '.join(others)}"
    return "put the images of each class into a folder of its own, or name them like cat_0012.png"


def _images(count: int) -> str:
    return _count(count, "image", "images")


def _count(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _five(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(f"'{name}'" for name in names[:5]) + more
