"""A folder decoded as a training would decode it, to see what is wrong with its images, before anything is trained.

checked = check(found, Wishes(), resources, warn=print)
checked.findings.leaks                          # places in found.files
checked.refusal                                 # why a training would stop at once, or None
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from capture_cli.errors import DataError
from capture_cli.labels import Scan
from capture_cli.pixels.choosing import Wishes, choose_geometry
from capture_cli.pixels.findings import Findings, Observed, find
from capture_cli.pixels.store import open_store
from capture_cli.pixels.verdicts import Names, refuse_lost
from capture_cli.resources import Resources

_BLOCK = 1024  # images that are decoded between two looks at what the store warns of


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The images of a folder, decoded and compared, those of a test split too."""

    inputs: str
    """The size of the inputs and how they are made, and why, for people; not escaped."""
    names: Names
    findings: Findings
    refusal: DataError | None


def check(scan: Scan, wishes: Wishes, resources: Resources, *, warn: Callable[[str], object]) -> Checked:
    """Decode every image of a scan and compare them. Trouble with memory and disk goes to `warn`."""
    geometry, inputs, *_ = choose_geometry(scan.files, scan.source.read, wishes)
    trained = Names(files=scan.files, labels=scan.labels, splits=scan.splits, classes=scan.classes)
    names = trained.with_tests([(one.file, one.detail) for one in scan.skipped if one.reason == "test-split"])
    observed = Observed(len(names.files))
    with closing(open_store(len(names.files), geometry, resources, warn=warn)) as store:
        for start in range(0, len(names.files), _BLOCK):
            ids = range(start, min(start + _BLOCK, len(names.files)))
            observed.add(store.admit(ids, lambda i: scan.source.read(names.files[i])))
        findings = find(observed, names.labels, names.splits, rows=store.rows)
    refusal = None
    try:
        refuse_lost(observed, trained)
    except DataError as error:
        refusal = error
    return Checked(inputs=inputs, names=names, findings=findings, refusal=refusal)
