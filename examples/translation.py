"""Translation, from text to tokens to the prediction for each token: a declaration in English and German.

python examples/translation.py [RUN]

A small transformer memorises 60 sentences of the Universal Declaration of Human Rights. Each record has the text of both sides,
so a wrong token can be traced to its sentence. The program prints the worst one, from the records alone.
"""

import csv
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from capture_cli import Recorder, identified, open_run

RUN = sys.argv[1] if len(sys.argv) > 1 else "runs/translation"
PAD, BEGIN, END, LENGTH = 0, 1, 2, 200

with (Path(__file__).parent / "declaration.tsv").open(encoding="utf-8", newline="") as file:
    pairs = list(csv.DictReader(file, delimiter="\t"))
letters = ["<pad>", "<begin>", "<end>", *sorted(set("".join(pair["English"] + pair["Deutsch"] for pair in pairs)))]


def tokens(text: str) -> list[int]:
    """Return a text as one token per letter, at most LENGTH."""
    return [BEGIN, *(letters.index(letter) for letter in text[: LENGTH - 2]), END]


def collate(samples: list[tuple[str, str, str]]) -> tuple[torch.Tensor, torch.Tensor, list[str], list[str], list[str]]:
    """Return the padded tokens [B, T] of both sides, their texts and their ids."""
    sources, targets, ids = map(list, zip(*samples, strict=True))
    padded = [
        nn.utils.rnn.pad_sequence([torch.tensor(tokens(text)) for text in side], batch_first=True, padding_value=PAD)
        for side in (sources, targets)
    ]
    return padded[0], padded[1], sources, targets, ids


class Translator(nn.Module):
    """A transformer with one encoder layer and one decoder layer."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(len(letters), width), nn.Embedding(LENGTH, width)
        self.transformer = nn.Transformer(width, 4, 1, 1, 128, dropout=0, batch_first=True)
        self.out = nn.Linear(width, len(letters))

    def embed(self, side: torch.Tensor) -> torch.Tensor:
        """Return embeddings [B, T, width] of tokens [B, T]."""
        return self.letters(side) + self.places(torch.arange(side.shape[1]))

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return logits [B, T, letters] of the token after each target token, for sources [B, S] and targets [B, T]."""
        ahead = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.out(self.transformer(self.embed(source), self.embed(target), tgt_mask=ahead, tgt_is_causal=True))


torch.manual_seed(0)
data = identified([(pair["English"], pair["Deutsch"]) for pair in pairs], ids=[pair["article"] for pair in pairs])
loader = DataLoader(data, batch_size=15, shuffle=True, collate_fn=collate)
model = Translator()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

with Recorder(RUN, task="sequence", ignore_index=PAD, classes=letters, model=model, probs="top:3", force=True) as recorder:
    for epoch in range(3):
        for source, target, sources, targets, ids in loader:
            logits, labels = model(source, target[:, :-1]), target[:, 1:]
            loss = nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=PAD)
            recorder.record(
                epoch=epoch, phase="train", inputs=source, logits=logits, labels=labels, ids=ids, loss=loss,
                extra={"source": sources, "target": targets},
            )  # fmt: skip
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

with open_run(RUN) as run:
    last = [record for record in run.records() if record.kind == "batch"][-1]
worst = int(last.losses.argmax())
text = last.extra["source"][last.sequences["ids"].index(last.ids[worst])]
print(f"article {last.ids[worst]}: {text}")
print(f"position {last.positions[worst]} of its translation is {letters[last.labels[worst]]!r},", end=" ")
print(f"predicted {letters[last.preds[worst]]!r}: p(label) {last.p_labels[worst]:.4f}, loss {last.losses[worst]:.2f} nats")
