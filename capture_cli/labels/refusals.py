"""Errors about labels: what is wrong in a folder, and the commands that go on from there.

Every hint that names a rule holds whole commands between backticks. They run as they are.
"""

import os
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path

from capture_cli.errors import DataError
from capture_cli.labels.annotations import annotations
from capture_cli.labels.candidates import Fit, try_rules
from capture_cli.labels.comparison import Undecided
from capture_cli.labels.names import similar
from capture_cli.labels.purposes import split_word
from capture_cli.labels.rules import Rule, natural_order, parse_rule
from capture_cli.sources import IMAGE_EXTENSIONS, Skipped, TypedSource, is_image

MOST_COMMANDS = 4
_MOST_FOLDERS = 200
"""Entries of a folder that are looked at to tell whether it holds images."""
_MAY_HOLD_LABELS = (".mat", ".json", ".xml", ".xlsx", ".xls", ".parquet", ".npy", ".npz", "labels.txt", "classes.txt")


def command(source: TypedSource, *options: str) -> str:
    """Write `capture labels FOLDER OPTIONS` as it is typed, between backticks."""
    return f"`capture labels {shlex.join([*source.typed, *options])}`"


def evaluation(named: str, table: str) -> str:
    """Write the command that evaluates the images of a folder by a table, as it is typed, between backticks."""
    return f"`capture evaluate last {shlex.join([named, '--labels', table])}`"


def no_images(source: TypedSource, skipped: Sequence[Skipped]) -> DataError:
    """Make the error for a source without a usable image."""
    if not skipped:
        return DataError(f"'{source.name}' is empty", f"put images into it: {', '.join(IMAGE_EXTENSIONS)}")
    links = sorted(one.file for one in skipped if one.reason == "symlink")
    if len(links) * 2 > len(skipped):
        number = count(len(links), "symbolic link", "symbolic links")
        message = f"'{source.name}' holds {number}, which are not followed: {quoted(links)}"
        return DataError(message, copy_of_links(source))
    if any(one.file.startswith("records.jsonl") for one in skipped):
        name = shlex.quote(source.typed[0])
        return DataError(f"'{source.name}' is a run, not a folder of images", f"`capture inspect {name}` reads it")
    reasons = Counter(one.reason for one in skipped).most_common()
    return DataError(
        f"no images in '{source.name}'; skipped: {', '.join(f'{n:,} {reason}' for reason, n in reasons)}, "
        f"such as '{skipped[0].file}'",
        f"image names end in {', '.join(IMAGE_EXTENSIONS)}; links are not followed",
    )


def copy_of_links(source: TypedSource) -> str:
    """Advise how to make a folder of what symbolic links lead to."""
    folder, copy = (shlex.quote(name) for name in (source.typed[0], source.typed[0].rstrip("/") + "-copied"))
    return f"copy what they lead to: `cp -rL {folder} {copy}`; with -rLl it takes no space where both are on one disk"


def undecided(
    source: TypedSource, error: Undecided, tables: Sequence[str], files: Sequence[str], skipped: Sequence[Skipped]
) -> DataError:
    """Make the error for names from which `auto` takes no rule; `tables` are --labels values of tables that name the images."""
    if tables:
        commands = [command(source, "--labels", table) for table in tables]
        return DataError(f"{error.message}; a table names these images", f"use {' or '.join(commands)}")
    if error.fits:
        commands = [command(source, "--labels", one.rule.name) for one in error.fits[:MOST_COMMANDS]]
        how = "choose one" if len(commands) > 1 else "take it with"
        return DataError(error.message, f"{how}: {' or '.join(commands)}")
    hint = no_label_hint(source)
    if boxes := annotations(source, files, skipped):
        return DataError(
            f"{error.message}; this looks like object detection or segmentation ({boxes}), and capture classifies whole images",
            f"cut the objects out and {hint}",
        )
    if others := [one.file for one in skipped if one.file.lower().endswith(_MAY_HOLD_LABELS)]:
        hint = f"if {quoted(others[:2])} {'holds' if len(others) == 1 else 'hold'} the labels, convert to a table; or {hint}"
    return DataError(error.message, hint)


def splits_or_classes(source: TypedSource, error: Undecided, folders: Collection[str]) -> DataError:
    """Make the error for images without labels in folders that are called like splits."""
    names = quoted(natural_order(folders))
    hint = (
        f"if {names} are classes: {command(source, '--split-folders', 'ignore')}; if they are splits, {no_label_hint(source)}"
    )
    return DataError(error.message, hint)


def pooled(source: TypedSource, error: Undecided) -> DataError:
    """Make the error for training images without labels beside other splits that have some."""
    return DataError(
        f"{error.message} for training; the images of the other splits have labels",
        f"put all of them together: {command(source, '--split-folders', 'pool')}",
    )


def numbers_and_tables(source: TypedSource, rule: Rule, tables: Sequence[str]) -> DataError:
    """Make the error for names that hold numbers alone beside a table that names the images."""
    commands = [command(source, "--labels", value) for value in (*tables, rule.name)]
    return DataError("the names of the images hold numbers, and a table names them", f"choose one: {' or '.join(commands)}")


def no_label_hint(source: TypedSource) -> str:
    """Advise what to do where names hold no label."""
    table = command(source, "--files", "--format", "csv").replace("csv`", "csv > labels.csv`")
    above = _above(source)
    return (
        above
        + "; or " * bool(above)
        + f"put the images of each class into a folder of its own, name them like cat_0012.png, or write a table with {table}, "
        "fill in its column `label`, and use --labels labels.csv"
    )


def no_label(
    source: TypedSource,
    paths: Sequence[str],
    without: Sequence[str],
    rule: Rule,
    *,
    skips: bool,
    classes: Sequence[str] | None = None,
    tables: Sequence[str] = (),
) -> DataError:
    """Make the error for files that a rule does not fit.

    `skips` if --unmatched skip would help; `classes` are those of a model, `tables` have labels of these files.
    """
    number = f"{len(without):,} of {images(len(paths))}" if skips else f"any of {images(len(paths))}"
    if classes is None:
        others = try_others(source, paths, rule)
    else:
        above, _, name = source.location.rstrip("/").rpartition("/")
        single = f"the folder is called like a class: name '{above}' and add --include {shlex.quote(name)}"
        others = (
            _in_tables(tables)
            or _instead(rules_for(paths, classes))
            or (single if name in classes else "")
            or "name the rule of these images with --labels"
        )
    return DataError(
        f"the rule {rule.name} finds no label in {number}: {quoted(without)}",
        f"skip them with --unmatched skip: {command(source, '--labels', rule.name, '--unmatched', 'skip')}, or {others}"
        if skips
        else others,
    )


def one_class(source: TypedSource, label: str, paths: Sequence[str], rule: Rule, *, pools: bool) -> DataError:
    """Make the error for a single class; `pools` if other splits hold more classes."""
    hint = try_others(source, paths, rule)
    if pools:
        hint = f"the other splits have more classes; put all images together: {command(source, '--split-folders', 'pool')}"
    return DataError(f"only one class: the rule {rule.name} labels {images(len(paths))}, all '{label}'", hint)


def try_others(source: TypedSource, paths: Sequence[str], rule: Rule) -> str:
    """Advise what to do about a rule that does not fit: other rules that find two classes or more."""
    total = len(paths)
    options = []
    for fit in try_rules(paths, rule):
        extra = [] if fit.labelled == total else ["--unmatched", "skip"]
        if 2 * fit.classes <= fit.labelled or total < 20:
            options.append(f"{command(source, '--labels', fit.rule.name, *extra)} ({count(fit.classes, 'class', 'classes')})")
    if options:
        above = _above(source)
        return above + "; or " * bool(above) + f"choose another rule: {', '.join(options[:MOST_COMMANDS])}"
    return no_label_hint(source)


def _above(source: TypedSource) -> str:
    """Advise to name the folder above, if most of the folders in it hold images as those of classes do; else say nothing."""
    folder = Path(source.location)
    if source.val is not None or split_word(folder.name)[0]:
        return ""
    try:
        beside = [one for one in islice(folder.parent.iterdir(), _MOST_FOLDERS) if one != folder and one.is_dir()]
        filled = sum(any(is_image(one.name) for one in islice(folder.iterdir(), _MOST_FOLDERS)) for folder in beside)
    except OSError:
        return ""
    if 2 * filled <= len(beside):
        return ""
    named = shlex.quote(os.path.normpath(os.path.join(source.typed[0], "..")))  # noqa: PTH118 - as it was typed
    return f"if '{folder.name}' is one class, name the folder that holds all of them: `capture labels {named}`"


def images(number: int) -> str:
    """Write a number of images."""
    return count(number, "image", "images")


def count(number: int, one: str, many: str) -> str:
    """Write a number with its noun: `1 class`, `2,000 classes`."""
    return f"{number:,} {one if number == 1 else many}"


def quoted(names: Sequence[str]) -> str:
    """Quote the first five names and count the others."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(f"'{name}'" for name in names[:5]) + more


def some(fit: Fit) -> str:
    """Write a rule with its classes: `parent (2 classes: cat, dog)`."""
    return f"{fit.rule.name} ({fit.classes:,} classes: {', '.join(fit.names[:3])}{', ...' if fit.classes > 3 else ''})"


def unlabelled_validation(source: TypedSource, without: Sequence[str], tables: Sequence[str], label: str = "") -> DataError:
    """Make the error for validation images whose labels are elsewhere, in `tables` if those are found.

    `label` is one that no training image has.
    """
    top = without[0].partition("/")[0]
    found = f"have the label '{label}', which no training image has" if label else "have no label"
    return DataError(
        f"{images(len(without))} for validation {found}: {quoted(without)}",
        f"hold out some of the training images instead: {command(source, '--exclude', top)}"
        + "".join(
            f"; '{table.partition(':')[0]}' has labels of the others: after the training, {evaluation(source.typed[0], table)}"
            for table in tables
        ),
    )


def rules_for(paths: Sequence[str], classes: Sequence[str]) -> list[str]:
    """List the rules under which all labels are among `classes`."""
    known = set(classes)
    found = []
    for name in ("parent", "prefix", "suffix", "start", "end", "folder:1", "parent:2", "field:1", "field:2", "field:3"):
        rule = parse_rule(name)
        if rule is not None and all(rule.label_of(path) in known for path in paths):
            found.append(name)
    return found


def _instead(rules: Sequence[str]) -> str:
    return (
        f"here the classes of the model are found by {' or '.join(f'--labels {name}' for name in rules[:2])}" if rules else ""
    )


def _in_tables(tables: Sequence[str]) -> str:
    return f"a table has their labels: --labels {shlex.quote(tables[0])}" if tables else ""


def unknown_classes(
    unknown: Mapping[str, str],
    total: int,
    classes: Sequence[str],
    fitting: Sequence[str],
    *,
    from_model: bool,
    skips: bool,
    tables: Sequence[str] = (),
) -> DataError:
    """Make the error for labels that a model, or the training images, do not have."""
    who = "the model does not know" if from_model else "no training image has"
    known = "it knows" if from_model else "the training images have"
    known = "--merge-names ignores case, spaces and Unicode form; " * bool(similar({*unknown.values(), *classes})) + known
    return DataError(
        f"{len(unknown):,} of {images(total)} have a label that {who}: {quoted(natural_order(set(unknown.values())))}",
        _in_tables(tables)
        or _instead(fitting)
        or f"{known} {quoted(classes)}" + "; skip the others with --unmatched skip" * skips,
    )
