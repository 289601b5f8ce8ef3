"""The real Transformers: records hold what its Trainer computes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, Subset

from capture_cli import Recorder, TransformersCapture, identified
from capture_cli.errors import UsageError
from recordings import passes, records, verified
from transformers_models import CapturingTrainer, texts, tiny, trainer_of, transformers

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


class Streamed(IterableDataset[Any]):
    """Samples without ids, in a stream."""

    def __iter__(self) -> Iterator[Any]:
        return iter(texts(lambda number, _: number % 2))


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
                return DataLoader(data, batch_size=8, sampler=sampler, collate_fn=self.data_collator)

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
        """The message has the key, and the records say failed; a stream has no ids."""
        samples = texts(lambda number, _: number % 2)
        data: Any = Streamed() if lacking == "id" else [{k: v for k, v in one.items() if k != "labels"} for one in samples]
        with pytest.raises(UsageError, match=said) as caught, Recorder(tmp_path / "r.jsonl") as recorder:
            trainer_of(recorder, tmp_path, tiny("bert-classes", num_labels=2), data, max_steps=4).train()
        assert caught.value.hint
        assert verified(tmp_path / "r.jsonl") == "failed"

    def test_an_error_may_be_a_warning(self, tmp_path: Path) -> None:
        """With on_error="warn" batches without ids are counted, and the training goes on."""
        with Recorder(tmp_path / "r.jsonl", on_error="warn") as recorder:
            trainer = trainer_of(recorder, tmp_path, tiny("bert-classes", num_labels=2), Streamed(), max_steps=3)
            with pytest.warns(UserWarning, match="no 'id'"):
                trainer.train()
            assert trainer.state.global_step == recorder.missed == 3
