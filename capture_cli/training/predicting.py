"""The records of `capture predict`: phase `predict`, samples without labels.

with PredictionRecords(output, classifier, trained, runtime, listing, options) as records:
    for chunk in classifier.chunks(listing.files):
        records.write(chunk)
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from math import nan
from types import TracebackType
from typing import Any, Self

import numpy as np

from capture_cli import models
from capture_cli.config import top_k
from capture_cli.preprocessing import digests
from capture_cli.records import NO_LABEL, Batch, Epoch, Inputs, RunInfo, Samples, Skip
from capture_cli.runfolder import Output
from capture_cli.runtime import Runtime, versions
from capture_cli.sources import Listing
from capture_cli.sources.named import common_folder, names_within
from capture_cli.training.loading import Trained
from capture_cli.training.prediction import Chunk, Classifier

PHASE = "predict"


class PredictionRecords:
    """Writes a run record, one batch record per chunk, the totals and the end."""

    def __init__(
        self,
        output: Output,
        classifier: Classifier,
        trained: Trained,
        runtime: Runtime,
        listing: Listing,
        options: Mapping[str, Any],
    ) -> None:
        """Write the first records to `output`; `options` are those that decide what the records say."""
        self.status = "completed"
        """How the run ended."""
        self._journal = output.journal
        self._batch = self._n = 0
        folder = common_folder(listing.files)
        self._files = names_within(folder, listing.files)
        header, digest = trained.header, blake2b(digest_size=16)
        for file in self._files:
            digest.update(repr(file).encode())
        self._journal.append(
            RunInfo(
                config={"weights_digest": trained.digest, "model": header.model, **options},
                folder=folder,
                images={PHASE: len(self._files), "listing_digest": digest.hexdigest()},
                classes=list(header.classes),
                model={
                    "name": header.model,
                    "parameters": sum(p.numel() for p in classifier.model.parameters()),
                    **({"code_digest": code} if (code := models.code_digest(header.model)) else {}),
                    **trained.origin,
                },
                recipe=trained.recipe.to_dict(),
                versions=versions(),
                device=runtime.name,
                threads=runtime.threads,
            )
        )
        for file, one in zip(names_within(folder, [one.file for one in listing.skipped]), listing.skipped, strict=True):
            self._journal.append(Skip(file=file, reason=one.reason, detail=one.detail))

    def write(self, chunk: Chunk) -> None:
        """Write one chunk."""
        for place, reason in chunk.unusable:
            self._journal.append(Skip(file=self._files[place], reason=reason.reason, detail=reason.detail))
        n = len(chunk.places)
        if not n:
            return
        ids = chunk.places
        files = [self._files[i] for i in ids]
        no_labels = np.full(n, NO_LABEL, np.int64)
        columns: dict[str, Any] = {"labels": no_labels, "splits": [PHASE] * n, "sizes": chunk.sizes, "digests": chunk.digests}
        self._journal.append(Samples(ids=ids, files=files, **columns))
        probs = np.stack([one.probs for one in chunk.predictions])
        classes = probs.shape[1]
        top: dict[str, Any] = {"probs": probs}
        if k := top_k(None, classes):
            kept = np.argsort(-probs, axis=1, kind="stable")[:, :k]
            missing = np.full(n, nan, np.float32)
            top = {"probs": np.take_along_axis(probs, kept, 1), "topk": kept, "p_labels": missing, "probs_omitted": classes - k}
        self._journal.append(
            Batch(
                phase=PHASE,
                epoch=1,
                batch=self._batch,
                step=0,
                loss=nan,
                lr=None,
                ids=ids,
                files=files,
                labels=no_labels,
                preds=probs.argmax(1),
                losses=np.full(n, nan, np.float32),
                inputs=Inputs(shape=list(chunk.inputs.shape[1:]), dtype="float32", digests=digests(chunk.inputs), not_stored=n),
                **top,
            )
        )
        self._batch, self._n = self._batch + 1, self._n + n

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Write the totals and the end."""
        if kind is not None:
            self.status = "failed" if issubclass(kind, Exception) and not issubclass(kind, BrokenPipeError) else "interrupted"
        if self._n:
            n = self._n
            self._journal.append(Epoch(phase=PHASE, epoch=1, n=n, loss=nan, accuracy=None, captured=n, not_captured=0))
        self._journal.seal(self.status)
