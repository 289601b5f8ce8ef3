"""Translation, from text to tokens to the answer for each token: the Universal Declaration of Human Rights, English to German.

python examples/translation.py [RUN]

A small transformer learns 60 sentences by heart. The text of both sides goes along with each batch, so that a token that is
wrong can be traced to the sentence it is of: that is what is printed at the end, from the records alone.
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
    """Each letter a token, at most LENGTH of them."""
    return [BEGIN, *(letters.index(letter) for letter in text[: LENGTH - 2]), END]


def collate(samples: list[tuple[str, str, str]]) -> tuple[torch.Tensor, torch.Tensor, list[str], list[str], list[str]]:
    """[B, T] tokens of both sides, padded; and the texts and ids they are of."""
    sources, targets, ids = map(list, zip(*samples, strict=True))
    padded = [
        nn.utils.rnn.pad_sequence([torch.tensor(tokens(text)) for text in side], batch_first=True, padding_value=PAD)
        for side in (sources, targets)
    ]
    return padded[0], padded[1], sources, targets, ids


class Translator(nn.Module):
    """An encoder and a decoder of one layer each."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(len(letters), width), nn.Embedding(LENGTH, width)
        self.transformer = nn.Transformer(width, 4, 1, 1, 128, dropout=0, batch_first=True)
        self.out = nn.Linear(width, len(letters))

    def embed(self, side: torch.Tensor) -> torch.Tensor:
        """[B, T] -> [B, T, width]"""
        return self.letters(side) + self.places(torch.arange(side.shape[1]))

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """[B, S], [B, T] -> logits of the token after each of the target's, [B, T, letters]"""
        ahead = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        answer = self.transformer(self.embed(source), self.embed(target), tgt_mask=ahead, tgt_is_causal=True)
        return self.out(answer)


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
    last = [line.record() for line in run if line.kind == "batch"][-1]
worst = int(last.losses.argmax())
text = last.extra["source"][last.sequences["ids"].index(last.ids[worst])]
print(f"article {last.ids[worst]}: {text}")
print(f"position {last.positions[worst]} of its translation is {letters[last.labels[worst]]!r},", end=" ")
print(f"taken for {letters[last.preds[worst]]!r}: p(label) {last.p_labels[worst]:.4f}, loss {last.losses[worst]:.2f} nats")
