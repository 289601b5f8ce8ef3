"""The real Lightning and Transformers: records hold what their loops compute."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset, TensorDataset

from capture_cli import LightningCapture, Recorder, TransformersCapture, identified
from capture_cli.errors import UsageError
from recordings import records, verified

pl = pytest.importorskip("lightning.pytorch")
transformers = pytest.importorskip("transformers")

POINTS = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(POINTS, 2 * (POINTS[:, 0] > 0).long() + (POINTS[:, 1] > 0).long())
IDS = [f"point {number}" for number in range(60)]


class Module(pl.LightningModule):
    """A linear model; `change` alters the return value of a step."""

    def __init__(self, change: Callable[[dict[str, Any]], Any] = lambda returned: returned) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 4)
        self.change = change
        self.losses: list[float] = []

    def step(self, batch: Any) -> Any:
        inputs, labels, *_ = batch
        logits = self.layer(inputs)
        loss = nn.functional.cross_entropy(logits, labels)
        self.losses.append(loss.item())
        return self.change({"loss": loss, "logits": logits, "labels": labels})

    def training_step(self, batch: Any, _: int) -> Any:
        return self.step(batch)

    def validation_step(self, batch: Any, _: int, dataloader_idx: int = 0) -> Any:  # noqa: ARG002
        return self.step(batch)

    def test_step(self, batch: Any, _: int) -> Any:  # noqa: PT019 - Lightning's name, no test
        return self.step(batch)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


def trainer_with(recorder: Recorder, root: Any = pl, **options: Any) -> Any:
    """A quiet trainer on the CPU."""
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return root.Trainer(callbacks=[LightningCapture(recorder)], **quiet, **{"max_epochs": 2, **options})


def loader_of(data: Dataset[Any], *, shuffle: bool = False, batch_size: int = 16, **options: Any) -> DataLoader[Any]:
    return DataLoader(data, batch_size=batch_size, shuffle=shuffle, **options)


def passes(path: Path) -> list[tuple[str, int, int]]:
    """Return (phase, epoch, samples) of the epoch records, in order."""
    return [(one.phase, one.epoch, one.n) for one in records(path, "epoch")]


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

    def test_labels_are_not_taken_for_ids(self, tmp_path: Path) -> None:
        """The hint for a dataset that is not identified; ids that a step returns are accepted."""
        with pytest.raises(UsageError, match="TensorDataset have no ids"), Recorder(tmp_path / "a.jsonl") as recorder:
            trainer_with(recorder).fit(Module(), loader_of(DATA))
        with Recorder(tmp_path / "b.jsonl", repeats=True) as recorder:
            trainer_with(recorder).fit(Module(lambda r: r | {"ids": list(range(len(r["labels"])))}), loader_of(DATA))
        assert verified(tmp_path / "b.jsonl") == "completed"

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


def tiny(kind: str, **config: Any) -> Any:
    """Make a small Transformers model with random weights."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}
    t = transformers
    bert = t.BertConfig(**small, **config) if kind.startswith("bert") else None
    return {
        "bert-classes": lambda: t.BertForSequenceClassification(bert),
        "bert-tokens": lambda: t.BertForTokenClassification(bert),
        "bert-masked": lambda: t.BertForMaskedLM(bert),
        "gpt2": lambda: t.GPT2LMHeadModel(
            t.GPT2Config(vocab_size=30, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
        ),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**small, num_key_value_heads=2)),
        "t5": lambda: t.T5ForConditionalGeneration(
            t.T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
        ),
        "vit": lambda: t.ViTForImageClassification(
            t.ViTConfig(
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                image_size=8,
                patch_size=4,
                num_labels=5,
            )
        ),
    }[kind]()


def texts(labels: Callable[[int, torch.Tensor], Any], n: int = 20) -> list[dict[str, Any]]:
    """Make samples of 10 tokens, the last few padding."""
    samples = []
    for number in range(n):
        generator = torch.Generator().manual_seed(number)
        tokens = torch.randint(3, 30, (10,), generator=generator)
        mask = (torch.arange(10) < 6 + number % 5).long()
        samples.append({"input_ids": tokens, "attention_mask": mask, "labels": labels(number, tokens.where(mask > 0, -100))})
    return samples


CASES: dict[str, tuple[str, dict[str, Any], str, Callable[[int, torch.Tensor], Any]]] = {
    "sequence classification": ("bert-classes", {"num_labels": 3}, "classification", lambda number, _: number % 3),
    "regression": ("bert-classes", {"num_labels": 1}, "regression", lambda number, _: number / 10),
    "multilabel": (
        "bert-classes",
        {"num_labels": 3, "problem_type": "multi_label_classification"},
        "multilabel",
        lambda number, _: torch.tensor([number % 2, number % 3 == 0, 1]).float(),
    ),
    "token classification": (
        "bert-tokens",
        {"num_labels": 4},
        "sequence",
        lambda _, tokens: (tokens % 4).where(tokens >= 0, -100),
    ),
    "masked language model": (
        "bert-masked",
        {},
        "sequence",
        lambda _, tokens: tokens.where(torch.arange(10) % 3 == 0, -100),
    ),
    "causal language model": ("gpt2", {}, "sequence", lambda _, tokens: tokens),
    "another causal language model": ("llama", {}, "sequence", lambda _, tokens: tokens),
    "encoder and decoder": ("t5", {}, "sequence", lambda _, tokens: tokens),
}


OLD = tuple(map(int, transformers.__version__.split(".")[:3])) < (5, 10, 2)
FIRST_TOKENS = {"gpt2", "llama"} if OLD else {"gpt2"}
"""Models for which the Trainer's mean includes the first tokens, although nothing predicts them."""


class CapturingTrainer(TransformersCapture, transformers.Trainer):
    """The class that the examples define."""


def trainer_of(
    recorder: Recorder, folder: Path, model: Any, data: Any, cls: type[Any] = CapturingTrainer, **options: Any
) -> Any:
    """A quiet trainer on the CPU; keywords of TrainingArguments, and of the trainer with a leading underscore."""
    given = {
        name: options.pop(f"_{name}")
        for name in ("eval_dataset", "data_collator", "compute_loss_func")
        if f"_{name}" in options
    }
    arguments = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "logging_strategy": "no",
        **options,
    }
    args = transformers.TrainingArguments(str(folder / "trainer"), **arguments)
    return cls(model=model, args=args, train_dataset=data, recorder=recorder, **given)


class TestTransformers:
    """The Transformers mixin."""

    @pytest.mark.parametrize("case", CASES)
    def test_the_losses_are_those_of_the_model(self, tmp_path: Path, case: str) -> None:
        """For every kind of head, the mean of the recorded losses is the model's loss."""
        kind, config, task, labels = CASES[case]
        data = identified(texts(labels))
        with Recorder(tmp_path / "r.jsonl", task=task) as recorder:
            trainer_of(recorder, tmp_path, tiny(kind, **config), data, _eval_dataset=data, eval_strategy="epoch").train()
        assert verified(tmp_path / "r.jsonl") == "completed"
        batches = records(tmp_path / "r.jsonl", "batch", "numbers")
        assert [(b.phase, b.epoch, b.batch) for b in batches] == [
            (phase, epoch, batch) for epoch in range(2) for phase in ("train", "val") for batch in range(3)
        ]
        for batch in batches:
            ids = batch.sequences["ids"] if task == "sequence" else batch.ids
            counted = len(batch.losses) + (len(ids) if kind in FIRST_TOKENS else 0)
            assert batch.losses.sum(dtype=np.float64) / counted == pytest.approx(batch.loss, rel=1e-4)
            assert len(batch.inputs.digests) == len(ids)
            if task == "classification":
                assert batch.labels.tolist() == [number % 3 for number in ids]
        for epoch in range(2):
            seen = [
                one
                for b in batches
                if (b.phase, b.epoch) == ("train", epoch)
                for one in (b.sequences["ids"] if task == "sequence" else b.ids)
            ]
            assert sorted(seen) == list(range(20))
        assert all((b.lr is None) == (b.phase == "val") for b in batches)

    def test_images(self, tmp_path: Path) -> None:
        """The main input of a vision model is not text."""
        data = identified([{"pixel_values": torch.rand(3, 8, 8), "labels": number % 5} for number in range(16)])
        with Recorder(tmp_path / "r.jsonl") as recorder:
            trainer_of(recorder, tmp_path, tiny("vit"), data).train()
        assert {tuple(b.inputs.shape) for b in records(tmp_path / "r.jsonl", "batch")} == {(3, 8, 8)}

    def test_the_trainer_removes_unused_columns_but_the_id(self, tmp_path: Path) -> None:
        """With remove_unused_columns, a text column is dropped and the id stays."""
        samples = [one | {"text": f"text {number}"} for number, one in enumerate(texts(lambda number, _: number % 2))]
        with Recorder(tmp_path / "r.jsonl") as recorder:
            trainer = trainer_of(recorder, tmp_path, tiny("bert-classes", num_labels=2), identified(samples))
            assert trainer.args.remove_unused_columns
            trainer.train()
        assert verified(tmp_path / "r.jsonl") == "completed"

    def test_padding_of_distributed_samplers_is_counted(self, tmp_path: Path) -> None:
        """The last sample of 19 for the second of two processes is a repeated one."""
        data = Subset(identified(texts(lambda number, _: number % 2)), range(19))

        class Distributed(CapturingTrainer):
            def get_train_dataloader(self) -> Any:
                sampler = DistributedSampler(data, 2, 1)
                return loader_of(data, batch_size=8, sampler=sampler, collate_fn=self.data_collator)

            def get_eval_dataloader(self, *_: Any) -> Any:
                return self.get_train_dataloader()

        with Recorder(tmp_path / "r.jsonl") as recorder:
            model = tiny("bert-classes", num_labels=2)
            trainer_of(recorder, tmp_path, model, data, Distributed, _eval_dataset=data, eval_strategy="epoch").train()
        found = [(one.phase, one.n, one.padded) for one in records(tmp_path / "r.jsonl", "epoch")]
        assert found == [("train", 9, 1), ("val", 9, 1)] * 2

    def test_evaluations_by_name_and_prediction(self, tmp_path: Path) -> None:
        """Two evaluation datasets are two phases, predict is `test`, and passes count up."""
        data = identified(texts(lambda number, _: number % 2))
        others = {"German": Subset(data, range(8)), "French": Subset(data, range(8, 20))}
        with Recorder(tmp_path / "r.jsonl") as recorder:
            trainer = trainer_of(
                recorder, tmp_path, tiny("bert-classes", num_labels=2), data, _eval_dataset=others, eval_strategy="epoch"
            )
            trainer.train()
            trainer.predict(Subset(data, range(4)))
            trainer.evaluate(Subset(data, range(4)))
        assert passes(tmp_path / "r.jsonl") == [
            *[("train", 0, 20), ("val-german", 0, 8), ("val-french", 0, 12)],
            *[("train", 1, 20), ("val-german", 1, 8), ("val-french", 1, 12)],
            *[("test", 1, 4), ("val", 1, 4)],
        ]

    def test_generated_predictions_are_not_recorded(self, tmp_path: Path) -> None:
        """A Seq2SeqTrainer that generates computes no loss; its model gets no id, and the training is recorded."""

        class Generating(TransformersCapture, transformers.Seq2SeqTrainer):
            pass

        data = identified(texts(lambda _, tokens: tokens))
        args = transformers.Seq2SeqTrainingArguments(
            str(tmp_path / "trainer"), predict_with_generate=True, num_train_epochs=1, eval_strategy="epoch",
            save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, logging_strategy="no",
        )  # fmt: skip
        with Recorder(tmp_path / "r.jsonl", task="sequence") as recorder:
            given = {"train_dataset": data, "eval_dataset": data, "compute_metrics": lambda _: {}}
            trainer = Generating(model=tiny("t5"), args=args, recorder=recorder, **given)
            with pytest.warns(UserWarning, match="predict_with_generate are not recorded"):
                trainer.train()
        assert {batch.phase for batch in records(tmp_path / "r.jsonl", "batch")} == {"train"}

    def test_accumulated_gradients_and_other_losses(self, tmp_path: Path) -> None:
        """Each micro-batch is recorded; with label smoothing or your own loss function, losses stay plain."""

        def doubled(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
            return 2 * nn.functional.cross_entropy(outputs.logits, labels)

        data = identified(texts(lambda number, _: number % 2))
        for name, options in (("smooth", {"label_smoothing_factor": 0.1}), ("own", {"_compute_loss_func": doubled})):
            with Recorder(tmp_path / f"{name}.jsonl") as recorder:
                model = tiny("bert-classes", num_labels=2)
                trainer_of(recorder, tmp_path, model, data, gradient_accumulation_steps=2, **options).train()
            batches = records(tmp_path / f"{name}.jsonl", "batch")
            assert [b.batch for b in batches] == [0, 1, 2] * 2
            assert all(np.isfinite(b.losses).all() for b in batches)
            assert all(b.loss != pytest.approx(b.losses.mean(), rel=1e-6) for b in batches)
        assert batches[0].loss == pytest.approx(2 * batches[0].losses.mean(), rel=1e-5)

    def test_your_own_trainer_keeps_its_loss(self, tmp_path: Path) -> None:
        """The mixin comes before a class with its own compute_loss."""

        class Own(transformers.Trainer):
            def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
                assert "id" not in inputs
                loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
                return (loss + 1, outputs) if return_outputs else loss + 1

        class Both(TransformersCapture, Own):
            pass

        data = identified(texts(lambda number, _: number % 2))
        with Recorder(tmp_path / "r.jsonl") as recorder:
            trainer_of(recorder, tmp_path, tiny("bert-classes", num_labels=2), data, Both).train()
        for batch in records(tmp_path / "r.jsonl", "batch"):
            assert batch.loss == pytest.approx(batch.losses.mean() + 1, rel=1e-5)

    @pytest.mark.parametrize(("lacking", "said"), [("id", "no 'id'"), ("labels", "no 'labels'")])
    def test_a_missing_key_of_a_batch_is_named(self, tmp_path: Path, lacking: str, said: str) -> None:
        """The message has the key, and the records say failed."""
        samples = texts(lambda number, _: number % 2)
        data = samples if lacking == "id" else identified([{k: v for k, v in one.items() if k != "labels"} for one in samples])
        with pytest.raises(UsageError, match=said) as caught, Recorder(tmp_path / "r.jsonl") as recorder:
            trainer_of(recorder, tmp_path, tiny("bert-classes", num_labels=2), data).train()
        assert caught.value.hint
        assert verified(tmp_path / "r.jsonl") == "failed"


MISSING = {"LightningCapture": "Lightning is not installed", "TransformersCapture": "Transformers is not installed"}


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_package_is_one_line(name: str) -> None:
    """The hint names the extra; the rest of capture works without it."""
    code = f"""
import sys
for missing in ("lightning", "pytorch_lightning", "transformers"):
    sys.modules[missing] = None
from capture_cli import Recorder, identified
from capture_cli.errors import UsageError
try:
    from capture_cli import {name}
except UsageError as error:
    print(error.message + "; " + error.hint)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    extra = "lightning" if name == "LightningCapture" else "transformers"
    assert done.stdout.strip() == f"{MISSING[name]}; pip install 'capture-cli[{extra}]'", done.stderr
