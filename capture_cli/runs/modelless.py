"""Folders in which there is no model, and why: for whoever was to predict with it.

raise without_model(Path("runs/mine"))
"""

from __future__ import annotations

import shlex
from pathlib import Path

from capture_cli.errors import UsageError
from capture_cli.runs.listing import listed
from capture_cli.runs.names import CONFIG, has_best_model, origin_of, place_of

_A_MODEL_IS = "name a run of `capture train`, or a .safetensors file"


def without_model(folder: Path, *, last: bool = False) -> UsageError:
    """Return the error for a folder without a model, or with `last` without that of the last epoch: what the folder is."""
    place, name = place_of(folder), shlex.quote(str(folder))
    if place is None:
        return UsageError(f"'{folder}' is not a run", _A_MODEL_IS)
    run = listed(place)
    if run.info and (origin := origin_of(run.info.model)):
        return UsageError(f"'{folder}' used the model of {origin}, and has none of its own", "name that run")
    if run.planned_epochs is None and not (folder / CONFIG).is_file():
        return UsageError(f"'{folder}' has no model: a Recorder keeps predictions, not weights", _A_MODEL_IS)
    what = f"'{folder}' has no model {'of its last epoch' if last else 'yet'}"
    best = "; drop --last to use that of the best epoch" if last and has_best_model(folder) else ""
    if run.state == "running":
        return UsageError(f"{what}: it is still running", f"wait for its end{best}")
    if run.state in ("completed", "compressed", "damaged"):
        return UsageError(f"'{folder}' has no model any more: its file is gone", f"restore it, or train again{best}")
    ended = {"cut off": "was cut off", "failed": "failed"}.get(run.state, "was interrupted")
    came = f" after {run.last_epoch or 0} of {run.planned_epochs} epochs" if run.planned_epochs else ""
    return UsageError(f"{what}: it {ended}{came}", f"`capture train --resume {name}` continues it{best}")
