"""The real Transformers: records hold what its Trainer computes."""

import os
import subprocess
import sys
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
from capture_cli.preprocessing import digests
from recordings import passes, records, verified

transformers = pytest.importorskip("transformers")


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
