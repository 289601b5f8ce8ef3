"""The real Lightning: records hold what its loop computes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import (
    DistributedSampler,
    Subset,
)

from capture_cli import Recorder, identified
from capture_cli.errors import UsageError
from lightning_module import DATA, Module, loader_of, trainer_with
from recordings import passes, records, verified

IDS = [f"point {number}" for number in range(60)]


class TestLightning:
    """The Lightning callback."""

    def test_it_records_training_validation_and_test(self, tmp_path: Path) -> None:
        """Every batch once, in its phase and epoch, with loss, learning rate, inputs and the ids of a shuffled dataset."""
        model = Module()
        train, val = Subset(identified(DATA, IDS), range(40)), Subset(identified(DATA, IDS), range(40, 60))
        with Recorder(tmp_path / "r.jsonl") as recorder:
            trainer = trainer_with(recorder, num_sanity_val_steps=2)
            trainer.fit(model, loader_of(train, shuffle=True), loader_of(val))
            trainer.test(model, loader_of(val, batch_size=20), verbose=False)
        assert verified(tmp_path / "r.jsonl") == "completed"
        assert passes(tmp_path / "r.jsonl") == [
            *[("val", 0, 20), ("train", 0, 40), ("val", 1, 20), ("train", 1, 40)],
            ("test", 2, 20),
        ]
        batches = records(tmp_path / "r.jsonl", "batch")
        sanity = 2
        np.testing.assert_allclose([batch.loss for batch in batches], model.losses[sanity:], rtol=1e-6)
        assert [batch.lr for batch in batches] == [*[0.5] * 3, None, None, *[0.25] * 3, None, None, None]
        for batch in batches:
            rows = [IDS.index(name) for name in batch.ids]
            assert batch.labels.tolist() == DATA.tensors[1][rows].tolist()
            np.testing.assert_allclose(batch.losses.mean(), batch.loss, rtol=1e-6)
        assert sorted(name for batch in batches[:3] for name in batch.ids) == sorted(IDS[:40])

    @pytest.mark.parametrize("interval", [1, 2, 0.5])
    def test_a_validation_in_mid_epoch_follows_a_step(self, tmp_path: Path, interval: float) -> None:
        """With `val_check_interval`, several loaders and a sanity check: the records say after which training step it came."""
        data = identified(DATA, IDS)
        train = Subset(data, range(48))  # three batches an epoch
        loaders = [loader_of(Subset(data, range(48, 60))), loader_of(Subset(data, range(50, 60)))]
        options = {"val_check_interval": interval, "num_sanity_val_steps": 1}
        seen: list[int] = []
        model = Module()
        model.on_validation_start = lambda: seen.append(model.trainer.fit_loop.total_batch_idx + 1)  # type: ignore[method-assign]
        with Recorder(tmp_path / "r.jsonl") as recorder:
            trainer_with(recorder, **options).fit(model, loader_of(train), loaders)
        assert verified(tmp_path / "r.jsonl") == "completed"
        _, *steps = seen  # the first is the sanity check
        for phase in ("val", "val-1"):
            ended = [one for one in records(tmp_path / "r.jsonl", "epoch") if one.phase == phase]
            batches = [one for one in records(tmp_path / "r.jsonl", "batch") if one.phase == phase]
            assert [one.step for one in ended] == [one.step for one in batches] == steps
            assert [one.epoch for one in ended] == [one.epoch for one in batches]
        trained = [one for one in records(tmp_path / "r.jsonl", "epoch") if one.phase == "train"]
        assert [one.step for one in trained] == [None, None]

    def test_pytorch_lightning_works_alike(self, tmp_path: Path) -> None:
        """In a process that imports only the older package."""
        code = """
import pytorch_lightning as pl, torch
from torch.utils.data import DataLoader, TensorDataset
from capture_cli import LightningCapture, Recorder, identified
assert issubclass(LightningCapture, pl.Callback)
class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 4)
    def training_step(self, batch, _):
        logits = self.layer(batch[0])
        return {"loss": torch.nn.functional.cross_entropy(logits, batch[1]), "logits": logits, "labels": batch[1]}
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
data = identified(TensorDataset(torch.rand(20, 2), torch.arange(20) % 4))
with Recorder("r.jsonl") as recorder:
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, callbacks=LightningCapture(recorder))
    trainer.fit(Module(), DataLoader(data, batch_size=10, shuffle=True))
"""
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert passes(tmp_path / "r.jsonl") == [("train", 0, 20)]

    @pytest.mark.parametrize("alone", [True, False])
    def test_a_loss_needs_no_labels(self, tmp_path: Path, alone: bool) -> None:
        """With the task `loss` a step returns the loss, alone or with losses and numbers by name."""

        def change(returned: dict[str, Any]) -> Any:
            if alone:
                return returned["loss"]
            logits = returned["logits"]
            return {"loss": returned["loss"], "losses": logits.square().mean(1), "numbers": {"norm": logits.norm(dim=1)}}

        model = Module(change)
        with Recorder(tmp_path / "r.jsonl", task="loss") as recorder:
            trainer_with(recorder, num_sanity_val_steps=0).fit(model, loader_of(identified(DATA)), loader_of(identified(DATA)))
        batches = records(tmp_path / "r.jsonl", "measures")
        np.testing.assert_allclose([batch.loss for batch in batches], model.losses, rtol=1e-6)
        assert all((batch.losses is None) == alone and (batch.numbers is None) == alone for batch in batches)
        assert [phase for phase, _, _ in passes(tmp_path / "r.jsonl")] == ["val", "train"] * 2

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda r: r["loss"], r"training_step returned no 'logits' \(its keys: 'loss'\)"),
            (
                lambda r: {"loss": r["loss"], "logits": r["logits"]},
                r"training_step returned no 'labels' \(its keys: 'loss', 'logits'\)",
            ),
            (lambda r: r | {"ids": [1, 2]}, r"ids: 2 ids for a batch of 16"),
            (lambda r: r | {"labels": r["labels"][:4]}, r"labels int64 \[4\] do not fit"),
        ],
        ids=["a tensor", "no labels", "ids", "labels"],
    )
    def test_a_missing_key_of_a_step_is_named(self, tmp_path: Path, change: Any, said: str) -> None:
        """The message has the key, the hint what to return; the records say failed."""
        with pytest.raises(UsageError, match=said) as caught, Recorder(tmp_path / "r.jsonl") as recorder:
            trainer_with(recorder).fit(Module(change), loader_of(identified(DATA)))
        assert "\n" not in caught.value.message
        assert verified(tmp_path / "r.jsonl") == "failed"

    def test_a_validation_step_that_returns_nothing_is_named(self, tmp_path: Path) -> None:
        """Most return nothing; the message names the step."""
        calls = iter(range(100))
        change = lambda r: r if next(calls) < 4 else None  # noqa: E731
        said = r"validation_step returned no 'logits' \(its keys: none\)"
        with pytest.raises(UsageError, match=said), Recorder(tmp_path / "r.jsonl") as recorder:
            trainer_with(recorder, num_sanity_val_steps=0).fit(
                Module(change), loader_of(identified(DATA)), loader_of(identified(DATA))
            )

    def test_an_error_may_be_a_warning(self, tmp_path: Path) -> None:
        """With on_error="warn" a step that returns too little is counted, and trains on."""
        model = Module(lambda returned: returned["loss"])
        with Recorder(tmp_path / "r.jsonl", on_error="warn") as recorder, pytest.warns(UserWarning, match="no 'logits'"):
            trainer_with(recorder, max_epochs=1, num_sanity_val_steps=0).fit(model, loader_of(DATA))
        assert recorder.missed == len(model.losses) == 4
        assert records(tmp_path / "r.jsonl", "batch") == []

    def test_padding_of_distributed_samplers_is_counted(self, tmp_path: Path) -> None:
        """The last sample of 59 for the second of two processes is a repeated one."""
        data = Subset(identified(DATA), range(59))
        train, val = (loader_of(data, sampler=DistributedSampler(data, 2, 1, shuffle=one)) for one in (True, False))
        with Recorder(tmp_path / "r.jsonl") as recorder:
            trainer_with(recorder, use_distributed_sampler=False).fit(Module(), train, val)
        found = [(one.phase, one.n, one.padded) for one in records(tmp_path / "r.jsonl", "epoch")]
        assert found == [("val", 29, 1), ("train", 29, 1)] * 2

    def test_inputs_of_a_mapping_must_be_returned(self, tmp_path: Path) -> None:
        """A batch that is a dict does not say which tensor the model got."""

        class Dicts(Module):
            def step(self, batch: Any) -> Any:
                returned = super().step((batch["x"], batch["y"]))
                return returned | {"inputs": batch["x"]} if self.given else returned

        data = identified([{"x": x, "y": y} for x, y in DATA])
        for given in (False, True):
            Dicts.given = given
            with Recorder(tmp_path / f"{given}.jsonl") as recorder:
                trainer = trainer_with(recorder, max_epochs=1)
                if given:
                    trainer.fit(Dicts(), loader_of(data))
                else:
                    with pytest.raises(
                        UsageError,
                        match="training_step returned no 'inputs', and they cannot be told from a batch that is a dict",
                    ):
                        trainer.fit(Dicts(), loader_of(data))
        assert passes(tmp_path / "True.jsonl") == [("train", 0, 60)]

    def test_several_validations_in_an_epoch_and_several_loaders(self, tmp_path: Path) -> None:
        """Validations count up, each loader has its own phase, and extra columns are recorded."""
        change = lambda r: r | {"extra": {"norm": r["logits"].norm(dim=1)}}  # noqa: E731
        val = [loader_of(identified(DATA), batch_size=30) for _ in range(2)]
        with Recorder(tmp_path / "r.jsonl") as recorder:
            trainer_with(recorder, val_check_interval=2, num_sanity_val_steps=0).fit(
                Module(change), loader_of(identified(DATA)), val
            )
        assert verified(tmp_path / "r.jsonl") == "completed"
        found = passes(tmp_path / "r.jsonl")
        assert [one[1:] for one in found if one[0] == "val"] == [(0, 60), (1, 60), (2, 60), (3, 60)]
        assert [one[1:] for one in found if one[0] == "val-1"] == [(0, 60), (1, 60), (2, 60), (3, 60)]
        assert [one[1:] for one in found if one[0] == "train"] == [(0, 60), (1, 60)]
        assert len(records(tmp_path / "r.jsonl", "batch")[0].extra["norm"]) == 16
