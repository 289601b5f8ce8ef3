"""`capture labels`: a scan as tables for people, or as one JSON object for programs.

    show_scan(found)               # rule, classes, other rules, skipped entries: tables on stdout
    sys.stdout.write(to_json(found, warnings(found)) + "\\n")

The table of classes ends after MAX_CLASSES and says how many more there are. The JSON has everything, in ASCII.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from capture_cli.labels import Scan
from capture_cli.labels.candidates import Fit, try_rules
from capture_cli.labels.refusals import command
from capture_cli.views.csv_lines import CsvLines
from capture_cli.views.terminal.tables import new_table, show
from capture_cli.views.terminal.text import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

MAX_CLASSES = 200
_EXAMPLES = 3
SUMMARY_CLASSES = 8
_WAYS_BACK = {"companion": ", used with --keep-companions"}
"""Reason to skip -> the option that uses such files."""


def show_scan(found: Scan, *, width: int | None = None) -> None:
    """Print what a source would become on stdout. `width` is that of the terminal in cells, None for a pipe."""
    rule, splits = found.rule, _splits(found)
    per_class = found.per_class()
    counts = {split: sum(getattr(c, split) for c in per_class) for split in splits}
    if not found.is_evaluated and (tests := _tests(found)):
        counts["test"] = len(tests)  # those of classes without training images, and without labels, are in no row
    shares, total = ", ".join(f"{count:,} {split}" for split, count in counts.items()), sum(counts.values())
    shares += _without_labels(found)
    classes = new_table(("class", "fold"), *((split, "#") for split in splits), ("such as", "fold"))
    for c in per_class[:MAX_CLASSES]:
        classes.add_row(plain(c.name), *(f"{getattr(c, split):,}" for split in splits), plain(c.example or ""))
    parts: list[RenderableType] = [
        plain(f"{found.source.name}: {total:,} images, {len(found.classes):,} classes ({shares})", "bold"),
        plain(f"labels: {rule.name}, {rule.meaning}, because {rule.why}"),
        *([plain(f"split: from {found.told_by}{'; val is drawn from every class' * found.is_drawn}")] if found.told_by else []),
        "",
        classes,
    ]
    if len(found.classes) > MAX_CLASSES:
        parts.append(f"and {len(found.classes) - MAX_CLASSES:,} more classes: --json has them all")
    others = new_table(("other rules", "fold"), ("classes", "#"), ("without label", "#"))
    for fit in _other_rules(found):
        others.add_row(plain(f"--labels {fit.rule.name}"), f"{fit.classes:,}", f"{len(found.files) - fit.labelled:,}")
    skipped = new_table(("skipped", "fold"), ("files", "#"), ("such as", "fold"))
    for reason, files in _skipped(found):
        skipped.add_row(plain(reason + _WAYS_BACK.get(reason, "")), f"{len(files):,}", plain(_few(files, _EXAMPLES)))
    for table in (others, skipped):
        if table.row_count:
            parts += ["", table]
    show(parts, width=width)


def summary(found: Scan, *, folds: int | None = None) -> list[str]:
    """Describe in a few lines what will be trained on, in how many folds, or evaluated; not escaped."""
    counts = Counter(found.splits)
    shown = ", ".join(f"{counts[split]:,} {split}" for split in ("train", "val", "test") if counts[split])
    images = f"{len(found.files):,} in {folds} folds, each held out once{_kept(found)}" if folds else None
    lines = [
        f"Labels: {found.example}. Not right? Try {command(found.source)} or --labels",
        f"{len(found.classes):,} classes: {_few(found.classes, SUMMARY_CLASSES)}",
        f"Images: {images or shown + _reason_of_splits(found)}",
    ]
    skipped = [
        f"{len(files):,} {reason} ({_few(files, _EXAMPLES)}){_WAYS_BACK.get(reason, '')}"
        for reason, files in _skipped(found)
        if reason != "test-split"
    ]
    return [*lines, f"Skipped: {'; '.join(skipped)}"] if skipped else lines


def _reason_of_splits(found: Scan) -> str:
    if found.is_evaluated:  # whatever they were in a training
        trained = Counter(found.table.splits.get(file, "test") for file in found.files) if found.table else Counter[str]()
        others = " and ".join(f"{trained[split]:,} as {split}" for split in ("train", "val") if trained[split])
        return f", of which '{found.table.name}' has {others}" if found.table and others else ""
    kept = _kept(found)
    told = f", from {found.told_by}" * ("val" in found.split_names or bool(found.table and found.table.splits))
    drawn = "; val is drawn from every class: --val-split SHARE changes how many, --val FOLDER takes others"
    return f"{told}{kept}{drawn * found.is_drawn}"


def _kept(found: Scan) -> str:
    tests = len(_tests(found))
    return f"; {tests:,} test images are kept for `capture evaluate`{_without_labels(found)}" if tests else ""


def _tests(found: Scan) -> list[tuple[str, str]]:
    """The images of a test split, which training leaves alone, each with its label, empty if it has none."""
    return [(file, detail) for file, reason, detail in found.skipped if reason == "test-split"]


def _without_labels(found: Scan) -> str:
    """A clause that counts the test images without labels, and names some; empty if there are none."""
    bare = [file for file, label in _tests(found) if not label]
    return f", {len(bare):,} of them without labels: {_few(bare, _EXAMPLES)}" if bare else ""


def _few(names: Sequence[str], number: int) -> str:
    return ", ".join(names[:number]) + ", ..." * (len(names) > number)


def _skipped(found: Scan) -> list[tuple[str, list[str]]]:
    """Group the names of skipped files by reason, the most frequent reason first."""
    names: dict[str, list[str]] = defaultdict(list)
    for file, reason, _ in found.skipped:
        names[reason].append(file)
    return sorted(names.items(), key=lambda item: -len(item[1]))


def to_json(found: Scan, warnings: Sequence[str], *, check: Mapping[str, Any] | None = None) -> str:
    """Encode the same as one JSON object, with every skipped entry, and `check` if there is one.

    `\\udcXX` is a byte that is not UTF-8.
    """
    body = {
        "folder": found.source.name,
        "images": len(found.files),
        "rule": {"name": found.rule.name, "meaning": found.rule.meaning, "why": found.rule.why},
        "other_rules": [
            {"name": fit.rule.name, "classes": fit.classes, "without_label": len(found.files) - fit.labelled}
            for fit in _other_rules(found)
        ],
        "classes": [
            {"name": c.name, **{split: getattr(c, split) for split in _splits(found)}, "example": c.example}
            for c in found.per_class()
        ],
        "split_from": found.told_by or None,
        "skipped": dict(Counter(one.reason for one in found.skipped).most_common()),
        "skipped_files": [one._asdict() for one in found.skipped],
        "warnings": list(warnings),
    }
    return json.dumps(body | ({"check": check} if check else {}))


def show_files(found: Scan, *, form: str) -> None:
    """Print one line per file on stdout, in the order of the names, as JSON Lines or CSV; `--labels` reads either.

    A line has `file`, and `label` and `split`, or `skipped` with the reason.
    """
    rows = [
        {"file": file, "label": found.classes[label], "split": split}
        for file, label, split in zip(found.files, found.labels, found.splits, strict=True)
    ]
    for file, reason, detail in found.skipped:
        if reason == "test-split":
            rows.append({"file": file, **({"label": detail} if detail else {}), "split": "test"})
        else:
            rows.append({"file": file, "skipped": reason} | ({"detail": detail} if detail else {}))
    rows.sort(key=lambda row: row["file"])
    if form == "jsonl":
        sys.stdout.writelines(json.dumps(row) + "\n" for row in rows)
        return
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape") if isinstance(sys.stdout, io.TextIOWrapper) else None
    table = csv.DictWriter(CsvLines(sys.stdout), ["file", "label", "split", "skipped"], extrasaction="ignore")
    table.writeheader()
    table.writerows(rows)


def _other_rules(found: Scan) -> list[Fit]:
    return try_rules([found.paths.get(file, file) for file in found.files], found.rule)


def _splits(found: Scan) -> list[str]:
    if found.is_evaluated:
        return ["test"]
    return ["train", "val", "test"] if any(label for _, label in _tests(found)) else ["train", "val"]
