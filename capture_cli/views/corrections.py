"""Corrections of labels to take away: a shell script that renames files, and a label table. Nothing here touches an image.

    fix_script(flagged, names, folder="photos", source="runs/mine", rule="prefix").text     # bytes of a script to read first
    label_table(suspects, listed)                                                           # bytes of a CSV for `--labels`

Names are hostile: each is quoted for a POSIX shell, and comments hold no control characters.
"""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from capture_cli.answers.listed import ListedImages
from capture_cli.answers.suspects import Suspect, share_names
from capture_cli.labels.rules import Rule, parse_rule
from capture_cli.views.csv_lines import CsvLines
from capture_cli.views.terminal.text import safe

_HEAD = """\
#!/bin/sh
# Labels that look wrong in {source}, by `capture suspects`. Nothing has been moved.
# Look at every picture, delete the lines that are wrong, then run: sh SCRIPT [FOLDER]
# A file that exists is never overwritten.
set -eu
folder={folder}
cd -- "${{1:-$folder}}"
move() {{
    if [ -e "$2" ] || [ -L "$2" ]; then
        printf '%s exists: %s was not moved\\n' "$2" "$1" >&2
    else
        mkdir -p -- "$(dirname -- "$2")"
        mv -n -- "$1" "$2"
    fi
}}
"""


@dataclass(frozen=True, slots=True)
class Script:
    """A script of renames to read first."""

    text: bytes
    renames: int
    comments: int
    """Flagged samples that it cannot rename, each with the reason."""


def fix_script(
    rows: Sequence[Suspect],
    names: Collection[str],
    *,
    folder: str,
    source: str,
    rule: str | None,
    is_file: Callable[[str], bool] = lambda _: False,
) -> Script:
    """A script that gives each of `rows` the name of its suggested class; `names` are the files that there are.

    Where the records have no digest of a file, as in a run of a Recorder, `is_file` says if one has that name. `rule` is the
    label rule of the run. A row that no new name would give its suggested class becomes a comment.
    """
    lines = [_HEAD.format(source=safe(source), folder=shlex.quote(folder))]
    taken = set(names)
    renames = 0
    for one in rows:
        about = f"{one.label} -> {one.suggested}"
        if one.p_wrong is not None:
            about += f", p(wrong) {one.p_wrong:.2f}, confidence {one.confidence:.2f}"
        lines.append(f"\n# {safe(about)}: {safe(one.reason)}\n")
        target = None
        if one.digest is None and not is_file(one.file):
            where = f"in '{safe(folder)}'; --folder names the folder of the images"
            why = "it is an id and no file" if one.file == str(one.id) else f"there is no such file {where}"
        elif rule == "table":
            why = "its label came from a table, so a new name would not change it; --labels-out writes a new table"
        else:
            why = "its name does not carry the label, so it cannot be renamed"
            target = renamed(one.file, one.label, one.suggested, taken, parse_rule(rule) if rule else None)
        if target is None:
            lines.append(f"# {why}: {safe(one.file)}\n")
            continue
        renames += 1
        taken.add(target)
        lines.append(f"move {shlex.quote(one.file)} {shlex.quote(target)}\n")
    if not rows:
        lines.append("\n# No label is flagged.\n")
    return Script("".join(lines).encode("utf-8", "surrogateescape"), renames, len(rows) - renames)


def renamed(file: str, label: str, suggested: str, taken: Collection[str], rule: Rule | None) -> str | None:
    """`file` with `suggested` in place of `label` where `rule` reads it, and nothing else changed; None if it is not there.

    Without a rule: the last folder of that name, else the file's own name if it has the label once. A name that is taken gets
    the next free number, or a number at its end.
    """
    if "/" in suggested or suggested in ("", ".", ".."):
        return None
    *folders, base = file.split("/")
    by_folder = [
        "/".join([*folders[:place], suggested, *folders[place + 1 :], base])
        for place in range(len(folders) - 1, -1, -1)
        if folders[place] == label
    ]
    start = "".join(f"{name}/" for name in folders)
    by_name = [f"{start}{base[: at.start()]}{suggested}{base[at.end() :]}" for at in _word(label).finditer(base)]
    if rule is None:
        target = next(iter(by_folder or by_name), None) if by_folder or len(by_name) == 1 else None
    elif rule.label_of(file) == label:
        target = next((one for one in (*by_folder, *by_name) if rule.label_of(one) == suggested), None)
    else:  # the rule read another path, without the words that name a split
        target = next(iter(by_folder if rule.reads == "folder" else by_name if len(by_name) == 1 else ()), None)
    return target if target is None or target not in taken else _free(target, taken)


def _word(label: str) -> re.Pattern[str]:
    """The label, but not as a part of a longer word or number; digits end a word, as in `boot12`."""
    before, after = (r"(?<!\d)" if label[:1].isdigit() else "", r"(?!\d)" if label[-1:].isdigit() else "")
    return re.compile(rf"(?<![^\W\d_]){before}{re.escape(label)}{after}(?![^\W\d_])")


def _free(target: str, taken: Collection[str]) -> str:
    folder, _, base = target.rpartition("/")
    stem, dot, extension = base.rpartition(".") if "." in base else (base, "", "")
    start = f"{folder}/" if folder else ""
    numbered = re.fullmatch(r"(.*?)(\d+)", stem, re.ASCII)
    if not numbered:
        numbered = re.fullmatch(r"(.*)()", f"{stem}-", re.DOTALL)
    assert numbered  # noqa: S101 - the second expression matches anything
    prefix, digits = numbered[1], numbered[2]
    number = int(digits or 1)
    while True:
        number += 1
        name = f"{start}{prefix}{number:0{len(digits)}d}{dot}{extension}"
        if name not in taken:
            return name


def label_table(suspects: Sequence[Suspect], listed: ListedImages) -> bytes:
    """A CSV with the columns file and label, sorted by file: the suggested class where a label is flagged, else its label.

    `listed` are all images of the run; a Recorder lists none, and the split of a sample is its phase. If there are several
    splits, a column says the split of each: a training by the table has the same validation and test images. Where samples of
    several phases share names, as in a run of a Recorder whose data sets all count from 0, each has a row of its own, and its
    split is the phase.
    """
    rows = {(file, listed.splits.get(file, "")): label for file, label in listed.labels.items()}
    by_phase = share_names(suspects) or not listed.labels
    for one in suspects:
        split = one.phase if by_phase else listed.splits.get(one.file, "")
        rows[one.file, split] = one.suggested if one.flagged else one.label
    columns = 3 if len({split for _, split in rows}) > 1 else 2
    out = io.StringIO()
    writer = csv.writer(CsvLines(out))
    writer.writerow(("file", "label", "split")[:columns])
    writer.writerows((file, label, split)[:columns] for (file, split), label in sorted(rows.items()))
    return out.getvalue().encode("utf-8", "surrogateescape")
