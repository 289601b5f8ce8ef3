"""Transformers: a Trainer that records its batches while a tiny language model memorises a declaration.

python examples/transformers_loop.py [RUN]       then: capture inspect RUN    (needs: pip install 'capture-cli[transformers]')
"""

import csv
import sys
import tempfile
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from capture_cli import Recorder, TransformersCapture

RUN = sys.argv[1] if len(sys.argv) > 1 else "runs/transformers"
LENGTH = 64


class CapturingTrainer(TransformersCapture, Trainer):
    """A Trainer that records its batches."""


with (Path(__file__).parent / "declaration.tsv").open(encoding="utf-8", newline="") as file:
    texts = [row["English"] for row in csv.DictReader(file, delimiter="\t")]
letters = ["<pad>", *sorted(set("".join(texts)))]


def sample(text: str) -> dict[str, torch.Tensor]:
    """Return a text as one token per letter, with padded labels."""
    tokens = torch.tensor([letters.index(letter) for letter in text[:LENGTH].ljust(LENGTH)])
    tokens[len(text) :] = 0
    return {"input_ids": tokens, "labels": tokens.where(torch.arange(LENGTH) < len(text), -100)}


torch.manual_seed(0)
config = GPT2Config(
    vocab_size=len(letters), n_positions=LENGTH, n_embd=32, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None
)
data = [sample(text) for text in texts]
model = GPT2LMHeadModel(config)

with tempfile.TemporaryDirectory() as folder:
    args = TrainingArguments(
        folder,
        num_train_epochs=2,
        per_device_train_batch_size=10,
        learning_rate=1e-2,
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    with Recorder(RUN, task="sequence", classes=letters, model=model, probs="top:3", force=True) as recorder:
        trainer = CapturingTrainer(
            model=model,
            args=args,
            train_dataset=torch.utils.data.Subset(data, range(40)),
            eval_dataset=torch.utils.data.Subset(data, range(40, 60)),
            recorder=recorder,
        )
        trainer.train()
