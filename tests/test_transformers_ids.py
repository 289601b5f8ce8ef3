"""The real Transformers: ids of data sets that are not identified are the indices that the sampler draws."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Subset

from capture_cli import Recorder, TransformersCapture
from capture_cli.preprocessing import digests
from recordings import passes, records
from transformers_models import texts, tiny, trainer_of, transformers

PROCESSES = """
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
from capture_cli import Recorder, TransformersCapture

class CapturingTrainer(TransformersCapture, Trainer): ...

data = [{"input_ids": torch.full((4,), number), "labels": number % 2} for number in range(19)]
small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}
args = TrainingArguments("trainer", num_train_epochs=2, per_device_train_batch_size=4, per_device_eval_batch_size=4,
    save_strategy="no", eval_strategy="epoch", report_to="none", disable_tqdm=True, use_cpu=True)
with Recorder("run") as recorder:
    model = BertForSequenceClassification(BertConfig(**small))
    CapturingTrainer(model=model, args=args, train_dataset=data, eval_dataset=data, recorder=recorder).train()
"""


class TestSamplerIds:
    """Ids of data sets that are not identified: the indices that the sampler draws, in the batch."""

    DATA = texts(lambda number, _: number % 2)

    def assert_ids_are_those_of_the_inputs(self, path: Path) -> None:
        expected = digests(torch.stack([one["input_ids"] for one in self.DATA]).numpy())
        for batch in records(path, "batch"):
            assert batch.inputs.digests == [expected[one] for one in batch.ids]

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 3, "dataloader_persistent_workers": True},
            {"gradient_accumulation_steps": 2},
            {"train_sampling_strategy": "group_by_length"},
        ],
        ids=["plain", "workers", "accumulated", "grouped"],
    )
    def test_they_are_those_of_the_inputs(self, tmp_path: Path, options: dict[str, Any]) -> None:
        """In training and evaluation, of a subset too; the batches that the model gets are as they were."""
        part = Subset(self.DATA, range(10, 20))  # type: ignore[arg-type]
        losses = []
        for watched in (True, False):
            model = tiny("bert-classes", num_labels=2)
            with Recorder(tmp_path / f"{watched}.jsonl") as recorder:
                given = {"_eval_dataset": {"whole": self.DATA, "part": part}, "eval_strategy": "epoch", **options}
                if watched:
                    trainer = trainer_of(recorder, tmp_path, model, self.DATA, **given)
                else:
                    without = lambda *, recorder, **rest: transformers.Trainer(**rest)  # noqa: ARG005, E731
                    trainer = trainer_of(recorder, tmp_path, model, self.DATA, without, **given)
                losses.append(trainer.train().training_loss)
        assert losses[0] == losses[1]
        assert passes(tmp_path / "True.jsonl") == [
            (phase, epoch, 10 if phase == "val-part" else 20)
            for epoch in (0, 1)
            for phase in ("train", "val-whole", "val-part")
        ]
        self.assert_ids_are_those_of_the_inputs(tmp_path / "True.jsonl")

    def test_a_resumed_training_skips_what_was_trained_on(self, tmp_path: Path) -> None:
        """The Trainer draws the skipped batches again, and drops them."""
        options = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 1, "save_total_limit": 9}
        for number in (1, 2):
            with Recorder(tmp_path / f"{number}.jsonl") as recorder:
                trainer = trainer_of(recorder, tmp_path, tiny("bert-classes", num_labels=2), self.DATA, **options)
                trainer.train(resume_from_checkpoint=number == 2 and str(tmp_path / "trainer" / "checkpoint-1"))
        whole, rest = ([one.ids for one in records(tmp_path / f"{number}.jsonl", "batch")] for number in (1, 2))
        assert len(whole) == 3
        assert rest == whole[1:]
        self.assert_ids_are_those_of_the_inputs(tmp_path / "2.jsonl")

    def test_a_loader_of_ones_own_is_left_as_it_is(self, tmp_path: Path) -> None:
        """One that the Trainer is given, with a collate function that knows no ids."""
        seen: list[set[str]] = []

        def collate(samples: list[Any]) -> Any:
            seen.append({key for one in samples for key in one})
            return {key: torch.stack([torch.as_tensor(one[key]) for one in samples]) for key in samples[0]}

        loader = DataLoader(self.DATA, batch_size=8, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]

        class Own(transformers.Trainer):
            def get_train_dataloader(self) -> Any:
                return loader

        class Both(TransformersCapture, Own): ...

        with Recorder(tmp_path / "r.jsonl") as recorder:
            trainer_of(recorder, tmp_path, tiny("bert-classes", num_labels=2), self.DATA, Both).train()
        self.assert_ids_are_those_of_the_inputs(tmp_path / "r.jsonl")
        assert seen == [{"input_ids", "attention_mask", "labels"}] * 6
        assert loader.collate_fn is collate
        assert "id" not in next(iter(loader))

    def test_predictions_without_labels_need_no_ids(self, tmp_path: Path) -> None:
        """The model gets no key that it does not know, and nothing is recorded."""
        with Recorder(tmp_path / "r.jsonl") as recorder:
            trainer = trainer_of(recorder, tmp_path, tiny("bert-classes", num_labels=2), self.DATA)
            bare = [{key: value for key, value in one.items() if key != "labels"} for one in self.DATA]
            assert trainer.predict(bare).predictions.shape == (20, 2)
            recorder.record(
                epoch=1, phase="train", inputs=torch.ones(1, 2), logits=torch.eye(2)[:1], labels=torch.tensor([0]), ids=[0]
            )
        assert {batch.phase for batch in records(tmp_path / "r.jsonl", "batch")} == {"train"}

    def test_two_processes_divide_the_samples(self, tmp_path: Path) -> None:
        """Under torchrun each sample is recorded once in an epoch, and the repeated ones are counted."""
        (tmp_path / "training.py").write_text(PROCESSES, encoding="utf-8")
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "training.py"]
        subprocess.run(
            torchrun, cwd=tmp_path, check=True, capture_output=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        expected = digests(torch.arange(19).repeat(4, 1).T.contiguous().numpy())
        found: dict[tuple[str, int], list[int]] = {}
        for batch in records(tmp_path / "run", "batch"):
            assert batch.inputs.digests == [expected[one] for one in batch.ids]
            found.setdefault((batch.phase, batch.epoch), []).extend(batch.ids)
        assert {key: sorted(ids) for key, ids in found.items()} == {
            (phase, epoch): list(range(19)) for phase in ("train", "val") for epoch in (0, 1)
        }
