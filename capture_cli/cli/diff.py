"""`capture diff A B`: compare runs."""

from typing import TYPE_CHECKING, Annotated

import typer

from capture_cli.cli.arguments import RUN_HELP, Epoch, find_run, open_run
from capture_cli.cli.terminal import terminal_width

if TYPE_CHECKING:
    from capture_cli.answers.diff import Diff
    from capture_cli.tables.gate import Gate


def diff(
    runs: Annotated[list[str], typer.Argument(metavar="A B...", help=f"{RUN_HELP} Others are compared with the first.")],
    limit: Annotated[
        int, typer.Option(metavar="N", min=0, help="Images to list for each direction of a flip, and classes.")
    ] = 10,
    fail_if: Annotated[
        str | None,
        typer.Option(
            metavar="SQL", help="Exit with 5 if this holds: 'accuracy_drop > 0.01 or flips > 20'.", show_default=False
        ),
    ] = None,
    epoch: Epoch = "last",
    folder: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the images are now, for pictures.", show_default="as recorded")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, also if the records are damaged.")] = False,
) -> int:
    """Compare runs: where they diverge, and which predictions changed.

    The first line is the verdict: of runs with other options or images the accuracy
    of both, else where the records diverge. Then: the settings that differ (options,
    files, versions, device, threads); loss and accuracy by epoch; the images that
    one run has right and the other wrong, with p(label) in both, in the last phase
    that both runs have (val, else test, else train), with calibration (ECE over 15
    bins) and McNemar's test; and the first record that differs, with its fields and
    images. Images are matched by path, and where only one run has a path by the
    bytes of the file; one whose label changed is listed, and compared in nothing
    else. Predictions and the gate are those of the last
    epoch, or where a run was not completed of the last one that both have; `--epoch
    best` takes the best one of each run, which is read twice and so cannot come
    from a pipe. Of more than two runs there is a table.

    --fail-if is a gate for continuous integration: an SQL condition on accuracy_a,
    accuracy_b, accuracy_drop, loss_a, loss_b, loss_rise, ece_a, ece_b, ece_rise,
    right_to_wrong, wrong_to_right, flips (both directions), worst_class_drop,
    mcnemar_p, images, labels_changed, only_a and only_b; of masks also mean_iou_a, mean_iou_b and
    mean_iou_drop. A is the run before, B the run after.

    Works on runs that are still going or were cut off: A is a prefix of B if B
    continues where A ends.

    Exit codes: 0 if the runs are equal, 1 if they differ, 2 for wrong usage, 4 if
    the records of one do not verify. The records before the damage are compared.
    With --fail-if: 5 if the condition holds, 0 if not, 1 if it cannot be judged.
    """
    import json
    from contextlib import ExitStack

    from capture_cli.answers.diff import compare
    from capture_cli.errors import UsageError
    from capture_cli.tables.gate import Gate
    from capture_cli.views.pictures import pictures_of
    from capture_cli.views.terminal import diff as view

    if len(runs) < 2:
        raise UsageError("diff needs at least two runs", f"name another one: capture diff {runs[0]} OTHER")
    if runs.count("-") > 1 or (len(runs) > 2 and runs[0] == "-"):
        raise UsageError("stdin can be only one of the runs", "give the others as run folders or files")
    gate = None if fail_if is None else Gate(fail_if)
    first, *others = [find_run(one, trainings=True) for one in runs]
    found = []
    width = terminal_width()
    with ExitStack() as stack:
        for name in others:
            one = stack.enter_context(open_run(first))
            found.append(compare(one, stack.enter_context(open_run(name)), limit=limit, epoch=epoch))
        if as_json:
            answers = [answer.to_json(a=runs[0], b=name) for answer, name in zip(found, runs[1:], strict=True)]
            typer.echo(json.dumps(answers[0] if len(answers) == 1 else {"runs": answers}))
        elif len(found) == 1:
            flips = view.listed_flips(found[0])
            pictures, notes = pictures_of(one, [(flip.file, flip.digest_a) for flip in flips], folder) if width else ([], [])
            view.show_diff(found[0], a=runs[0], b=runs[1], limit=limit, width=width, pictures=pictures, notes=notes)
        else:
            view.show_table(found, runs, width=width)
    for answer in found:
        if answer.error:
            raise answer.error
    if gate is not None:
        return _judged(gate, found, runs)
    return 0 if all(answer.relation == "equal" for answer in found) else 1


def _judged_phase(answer: "Diff") -> str:
    """The phase and the epochs that a gate judges."""
    if answer.predictions:
        phase, a, b = answer.predictions.phase, answer.predictions.a.epoch, answer.predictions.b.epoch
    elif answer.losses:
        phase, a, b = answer.losses.phase, answer.losses.epoch_a, answer.losses.epoch_b
    else:
        return "no phase in common"
    return f"{phase}, epoch {a}" if a == b else f"{phase}, epoch {a} in A, {b} in B"


def _judged(gate: "Gate", found: "list[Diff]", runs: list[str]) -> int:
    """Say what came of the gate; 5 if it failed. Raises CaptureError where it cannot be judged."""
    from capture_cli.errors import CaptureError
    from capture_cli.views.terminal.diff import captured_part
    from capture_cli.views.terminal.text import safe

    code = 0
    for answer, name in zip(found, runs[1:], strict=True):
        values = answer.measures()
        if values is None:
            raise CaptureError(f"--fail-if cannot be judged: no predictions to compare in {runs[0]} and {name}")
        if answer.partial:
            where = " and ".join(name.upper() for name in answer.partial)
            raise CaptureError(
                f"--fail-if cannot be judged: {_judged_phase(answer)}, did not end in {where} ({runs[0]} and {name})",
                "name an epoch that both completed with --epoch",
            )
        failed = gate.fails(values)
        said = ", ".join(f"{measure} {values[measure]:.6g}" for measure in gate.names)
        changed = values["labels_changed"] or 0
        left_out = f", without {changed:,.0f} images whose label changed" if changed else ""
        left_out += f", {part}" if (part := captured_part(answer)) else ""
        verdict = "gate failed" if failed else "gate passed"
        typer.echo(safe(f"{verdict}: {name}: {said} ({_judged_phase(answer)}{left_out}; --fail-if '{gate.text}')"), err=True)
        code = 5 if failed else code
    return code
