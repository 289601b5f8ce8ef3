"""Samples whose label is probably wrong, ranked from the training that was run anyway.

    found = find_suspects(run)
    found.expected                      # how many labels are probably wrong
    found.suspects[0].file, .suggested, .p_wrong, .reason

    find_suspects(run, other)           # several runs of the same files together: the mean of their scores

Training samples are ranked by the predictions of the forward passes that trained; validation samples, which nothing was
learnt from, by their evaluations. The steps: capture_cli.answers.suspects.score (the ranking), .count (how many), .reasons
(in words) and .combining (several runs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from capture_cli.answers.digests import SampleDigests
from capture_cli.answers.duplicates import Duplicates, Duplicating
from capture_cli.answers.dynamics import PHASES, Dynamics, SampleDynamics
from capture_cli.answers.state import RunState
from capture_cli.answers.suspects.count import calibrated, counted, is_too_weak, p_wrong, wrong_count
from capture_cli.answers.suspects.epochs import Bools, mean_over, without_gaps
from capture_cli.answers.suspects.noise_matrix import Floats, Ints
from capture_cli.answers.suspects.reasons import reasons
from capture_cli.answers.suspects.score import MAX_CLASSES, MIN_EPOCHS, score_labels
from capture_cli.errors import RecordsError, UsageError
from capture_cli.runs import folds_of

if TYPE_CHECKING:
    import pandas

    from capture_cli.runs import Run
    from capture_cli.runs.run import Fold

FEW_PER_CLASS = 100
"""Images a class below which the number of wrong labels is a rough guess."""
FEW_EPOCHS = 5
"""Epochs below which it is one: with 3 a third of the flags were wrong, and up to twice as many labels were counted."""
LIKELY = 1 / 3
"""A label that the mean prediction contradicts is flagged above this probability that it is wrong. The probabilities are
cautious: between a third and a half, nearly half of the labels were wrong. Mean F1 of the flags over 35 kinds of runs: 0.671
with a third, 0.646 with a half; what is not flagged either way are the guesses about networks that have learnt little."""
RARE, RARE_SHARE = 20, 0.25
"""Labels of a class with fewer images, and less than this share of the median class, are not flagged: it is hardly learnt."""
COLUMNS = (
    *("file", "id", "phase", "label", "suggested", "confidence", "score", "p_wrong", "flagged", "contradicted", "reason"),
)
"""Columns of a row, as JSON and CSV."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """One sample and how likely its label is wrong."""

    file: str
    """Its id as text where samples have no files."""
    id: int | str
    phase: str
    label: str
    suggested: str
    """The likeliest other class."""
    confidence: float
    """Share of the suggested class in the probability that the label is wrong, 0 to 1."""
    score: float
    """The higher, the likelier the label is wrong; only its order is meant."""
    p_wrong: float | None
    """Probability that the label is wrong; None where the run does not tell."""
    flagged: bool
    """Likely to be wrong (LIKELY), and contradicted by the mean prediction."""
    contradicted: bool
    """The mean prediction is another class than the label: on the review list."""
    reason: str
    digest: str | None
    """Digest of the image file, 32 hex digits; None where the records do not name it."""

    def to_json(self) -> dict[str, Any]:
        """The columns that `capture suspects --json` writes."""
        return {name: getattr(self, name) for name in COLUMNS}


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSuspects:
    """One phase, and the method that ranked it."""

    phase: str
    samples: int
    epochs: int
    method: str
    """`noise-model`, or `margin` where the run does not tell enough for it."""
    is_rough: bool
    """True below FEW_PER_CLASS images a class or FEW_EPOCHS epochs: the number of wrong labels is a guess."""
    notes: Sequence[str]
    """Limits of the answer, a sentence each."""

    @property
    def few(self) -> str:
        """The thing there is too little of if `is_rough`: `epochs` or `images a class`."""
        return "epochs" if self.epochs < FEW_EPOCHS else "images a class"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspects:
    """Every ranked sample of a run or of several runs together, the likeliest wrong label first."""

    phases: Sequence[PhaseSuspects]
    expected: float | None
    """Labels that are probably wrong, the sum of p_wrong; None where the run does not tell."""
    low: float
    high: float
    """The range in which their number probably is."""
    suspects: Sequence[Suspect]
    duplicates: Duplicates | None = None
    states: Sequence[RunState] = ()
    """The state of each run."""

    @property
    def flagged(self) -> list[Suspect]:
        """The samples whose label is probably wrong."""
        return [one for one in self.suspects if one.flagged]

    @property
    def review(self) -> list[Suspect]:
        """Every sample whose mean prediction contradicts its label: finds more wrong labels, and more right ones."""
        return [one for one in self.suspects if one.contradicted]

    @property
    def is_rough(self) -> bool:
        """True if there are too few images or epochs to tell how many labels are wrong."""
        return self.largest.is_rough

    @property
    def largest(self) -> PhaseSuspects:
        """The phase with most samples: the others take their share of wrong labels from it."""
        return max(self.phases, key=lambda one: one.samples)

    @property
    def state(self) -> RunState:
        """The state of the first run whose records have an error, else of the first run."""
        return next((one for one in self.states if one.error), self.states[0])

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        phases = [asdict(one) for one in self.phases]
        count = {"expected": self.expected, "low": self.low, "high": self.high, "rough": self.is_rough}
        return {
            **self.state.to_json(),
            **count,
            "phases": phases,
            "duplicates": self.duplicates.to_json() if self.duplicates else None,
            "suspects": [one.to_json() for one in self.suspects],
        }

    def to_pandas(self) -> pandas.DataFrame:
        """One row a sample in the columns of COLUMNS. Raises UsageError if pandas is not installed."""
        try:
            import pandas as pd
        except ImportError as error:
            raise UsageError("to_pandas() needs pandas", "pip install pandas") from error
        return pd.DataFrame([one.to_json() for one in self.suspects], columns=list(COLUMNS))


def share_names(suspects: Sequence[Suspect]) -> bool:
    """Return True if samples of several phases of a run have one name: a Recorder's data sets may each count from 0."""
    return len({one.file for one in suspects}) < len(suspects)


def find_suspects(run: Run, *others: Run, beside: Sequence[Fold] = ()) -> Suspects:
    """Rank the samples of a run, in one pass over its records; of several runs together by the mean of their scores.

    `beside` are further folds of the first run, fed in the same pass.

    Raises RecordsError where no phase has visits with labels, UsageError where samples do not have one label each, where there
    is only one class, or where several runs do not have the same classes.
    """
    if others:
        from capture_cli.answers.suspects.combining import of_runs

        answers = [find_suspects(run, beside=beside), *map(find_suspects, others)]
        return of_runs(answers, [one.info.classes for one in (run, *others)])
    if trainings := folds_of(run.info):
        from capture_cli.answers.suspects.combining import of_folds

        return of_folds(run, trainings, beside)
    folds, digests, duplicating = [Dynamics(phase) for phase in PHASES], SampleDigests(), Duplicating(thorough=True)
    error = run.fold(*folds, digests, duplicating, *beside)
    found = [fold.result() for fold in folds if fold]
    if not found:
        hint = "nothing was captured, or not yet, or these are predictions without labels"
        raise error or RecordsError(f"{run.name}: no captured visits with labels", hint)
    if len(found[0].classes) < 2:
        raise UsageError(f"{run.name} has one class only", "a wrong label needs another class to be right")
    duplicates = duplicating.result()
    return replace(rank(found, digests, duplicates), duplicates=duplicates, states=(RunState.of(run, error),))


def rank(found: Sequence[SampleDynamics], digests: SampleDigests, duplicates: Duplicates | None = None) -> Suspects:
    """Rank the samples of some phases by their dynamics; the classes must be at least two."""
    ranked = _calibrated([_rank(dynamics) for dynamics in found])
    rare = _rare_classes(found)
    suspects = [row for one in ranked for row in one.suspects(rare, digests, duplicates)]
    suspects.sort(key=lambda one: (one.p_wrong is None, -one.score, one.file))
    p = np.array([one.p_wrong for one in suspects if one.p_wrong is not None])
    expected, low, high = counted(p)
    return Suspects(
        phases=[_with_rare(one.about, found[0].classes, rare) for one in ranked],
        expected=expected if len(p) else None,
        low=low,
        high=high,
        suspects=suspects,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ranked:
    """The samples of one phase with their scores, before they are calibrated."""

    dynamics: SampleDynamics
    notes: Sequence[str]
    score: Floats
    suggested: Ints
    confidence: Floats
    contradicted: Bools
    """[N] whether the mean probabilities predict another class than the label."""
    means: Floats
    """[N, C] mean probabilities."""
    count: int | None
    """Labels that are probably wrong; None without a noise model."""

    @property
    def about(self) -> PhaseSuspects:
        return PhaseSuspects(
            phase=self.dynamics.phase,
            samples=len(self.dynamics),
            epochs=len(self.dynamics.epochs),
            method="margin" if self.count is None else "noise-model",
            is_rough=is_rough(self.dynamics, len(self.dynamics)),
            notes=self.notes,
        )

    def suspects(self, rare: Bools, digests: SampleDigests, duplicates: Duplicates | None) -> list[Suspect]:
        """One row a sample; labels of `rare` [C] classes are not flagged."""
        dynamics, classes = self.dynamics, self.dynamics.classes
        probabilities: Sequence[float | None] = [None] * len(dynamics)
        flagged = np.zeros(len(dynamics), bool)
        if self.count is not None:
            p = p_wrong(self.score)
            probabilities = p.tolist()
            flagged = (p > LIKELY) & self.contradicted & ~rare[dynamics.labels]
        columns = (
            *(self.suggested, self.confidence, self.score, flagged, self.contradicted),
            *(dynamics.labels, dynamics.ids, dynamics.files),
        )
        said = reasons(dynamics, self.means, self.suggested, flagged, duplicates)
        rows = zip(*(column.tolist() for column in columns), probabilities, said, strict=True)
        return [
            Suspect(
                file=file,
                id=name,
                phase=dynamics.phase,
                label=classes[label],
                suggested=classes[suggested],
                confidence=confidence,
                score=score,
                p_wrong=p_one,
                flagged=is_flagged,
                contradicted=is_contradicted,
                reason=reason,
                digest=digests.of(name),
            )
            for suggested, confidence, score, is_flagged, is_contradicted, label, name, file, p_one, reason in rows
        ]


def _calibrated(ranked: Sequence[_Ranked]) -> list[_Ranked]:
    """Calibrate each phase by its own count, so that p goes with the score in all of them.

    Held-out labels are taken to be wrong at most as often as those trained on: what a network never saw it contradicts more
    surely, right or wrong. Of 8,300 validation images of clean sets 59 were flagged without this, now 13; of the flags of noisy
    ones 60 % were right, now 73 %.
    """
    trained = [one for one in ranked if one.count is not None and one.dynamics.phase == "train"]
    rate = (trained[0].count or 0) / len(trained[0].dynamics) if trained else 1.0
    return [
        one if one.count is None else replace(one, score=calibrated(one.score, min(one.count, rate * len(one.dynamics))))
        for one in ranked
    ]


def _rank(dynamics: SampleDynamics) -> _Ranked:
    probs = dynamics.probs
    too_many = len(dynamics.classes) > MAX_CLASSES
    if probs is None or too_many or dynamics.usable_epochs < MIN_EPOCHS or len(dynamics) < 2 or has_few_visits(dynamics):
        return _by_margin(dynamics)
    probs = without_gaps(probs)
    if is_too_weak(probs, dynamics.labels):
        return _by_margin(dynamics, weak=True)
    scored = score_labels(probs, dynamics.labels)
    return _Ranked(
        dynamics=dynamics,
        notes=notes_of(dynamics, len(dynamics)),
        score=scored.score,
        suggested=scored.suggested,
        confidence=scored.suggested_share,
        contradicted=scored.contradicted,
        means=scored.mean_probs,
        count=wrong_count(probs, dynamics.labels, scored),
    )


def _by_margin(dynamics: SampleDynamics, *, weak: bool = False) -> _Ranked:
    """Rank by the lowest mean margin, without a noise model: no probability is known, and nothing is flagged."""
    n, classes = len(dynamics), len(dynamics.classes)
    rows = np.arange(n)
    means = np.zeros((n, classes))
    if dynamics.probs is not None:
        seen = ~np.isnan(dynamics.probs[:, :, 0])
        means = mean_over(np.where(seen[:, :, None], dynamics.probs, 0), seen)
    others = means.copy()
    others[rows, dynamics.labels] = -1
    suggested = others.argmax(1)
    return _Ranked(
        dynamics=dynamics,
        notes=[*([_weakness(dynamics)] if weak else []), *notes_of(dynamics, len(dynamics))],
        score=-np.nan_to_num(dynamics.aum.astype(float)),
        suggested=suggested,
        confidence=means[rows, suggested],
        contradicted=dynamics.aum < 0 if dynamics.probs is None else others.max(1) > means[rows, dynamics.labels],
        means=means,
        count=None,
    )


def has_few_visits(dynamics: SampleDynamics) -> bool:
    """Return True where more than a tenth of the samples have fewer visits than a noise model needs."""
    return float((dynamics.visits < MIN_EPOCHS).mean()) > 0.1


def _rare_classes(found: Sequence[SampleDynamics]) -> Bools:
    """[C] which classes have few images, in all phases together, beside classes of many."""
    sizes = sum(np.bincount(one.labels, minlength=len(one.classes)) for one in found)
    return np.asarray(sizes < min(RARE, RARE_SHARE * float(np.median(sizes))))


def _with_rare(about: PhaseSuspects, classes: Sequence[str], rare: Bools) -> PhaseSuspects:
    """Add the note on classes that are not flagged, where something is."""
    names = sorted(name for name, is_rare in zip(classes, rare.tolist(), strict=True) if is_rare)
    if not names or about.method == "margin":
        return about
    some = ", ".join(names[:3]) + f" and {len(names) - 3:,} more" * (len(names) > 3)
    note = f"labels of {some} are not flagged: fewer than {RARE} images, beside classes of many more"
    return replace(about, notes=[note, *about.notes])


def is_rough(dynamics: SampleDynamics, n: int) -> bool:
    """Whether `n` samples, or the epochs of these, are too few to count wrong labels."""
    return n < FEW_PER_CLASS * len(dynamics.classes) or len(dynamics.epochs) < FEW_EPOCHS


def _weakness(dynamics: SampleDynamics) -> str:
    right = float(np.nanmean(dynamics.correctness))
    return f"{right:.0%} of predictions agree with the label: too weak a network to tell wrong labels from its own errors"


def notes_of(dynamics: SampleDynamics, n: int) -> list[str]:
    """Sentences on limits of an answer about `n` samples."""
    notes = []
    classes, epochs = len(dynamics.classes), dynamics.usable_epochs
    if epochs < MIN_EPOCHS:
        notes.append(f"{epochs} of at least {MIN_EPOCHS} epochs: ranked by the mean margin, without a count")
    elif classes > MAX_CLASSES:
        notes.append(f"{classes:,} classes, more than {MAX_CLASSES}: ranked by the mean margin, without a count")
    elif has_few_visits(dynamics):
        few = f"{(dynamics.visits < MIN_EPOCHS).sum():,} samples have fewer than {MIN_EPOCHS} recorded visits"
        notes.append(f"{few}: ranked by the mean margin, without a count")
    elif dynamics.probs is None:
        notes.append("too many probabilities to keep: ranked by the mean margin, without a count")
    if not dynamics.probs_are_complete:
        notes.append("only the largest probabilities were recorded: the ranking of unlikely labels is coarser")
    if n < FEW_PER_CLASS * classes:
        each = round(n / classes)
        notes.append(f"{each} image{'s' * (each != 1)} a class; to count wrong labels takes about {FEW_PER_CLASS}")
    if MIN_EPOCHS <= epochs < FEW_EPOCHS:
        notes.append(f"{epochs} epochs; to count wrong labels takes about {FEW_EPOCHS}")
    if dynamics.evenly_mixed:
        notes.append(
            f"{dynamics.evenly_mixed:,} visits were not used: their inputs were mixed of two images, mostly of neither"
        )
    if dynamics.not_finite:
        notes.append(f"{dynamics.not_finite:,} visits with a loss that is not finite were not used")
    return notes
