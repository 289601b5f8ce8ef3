"""Your own dataset, transforms and DataLoader over a folder of images, with file names as ids and a validation phase.

python examples/image_loop.py [RUN]       then: capture inspect RUN --sample shirt_0001.png
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, random_split
from torchvision import transforms

from capture_cli import Recorder, identified

RUN = sys.argv[1] if len(sys.argv) > 1 else "runs/images"
FOLDER = Path(__file__).parent.parent / "sample_data"


class Clothes(Dataset):
    """Images whose names begin with their class."""

    def __init__(self, folder: Path, transform: transforms.Compose) -> None:
        self.files = sorted(folder.glob("*.png"))
        self.names = [file.name for file in self.files]
        self.classes = sorted({name.split("_")[0] for name in self.names})
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.open(self.files[index]).convert("RGB")
        return self.transform(image), self.classes.index(self.names[index].split("_")[0])


def main() -> None:
    """Train for three epochs."""
    torch.manual_seed(0)
    transform = transforms.Compose(
        [
            transforms.Resize((32, 32)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    clothes = Clothes(FOLDER, transform)
    train, val = random_split(identified(clothes, ids=clothes.names), [480, 120])
    loaders = {
        "train": DataLoader(train, batch_size=32, shuffle=True, num_workers=2),
        "val": DataLoader(val, batch_size=60),
    }
    model = nn.Sequential(
        *[nn.Conv2d(3, 16, 5, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(), nn.Flatten()],
        nn.LazyLinear(len(clothes.classes)),
    )
    model(torch.zeros(1, 3, 32, 32))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with Recorder(RUN, classes=clothes.classes, model=model, config={"lr": 2e-3}, force=True) as recorder:
        for epoch in range(3):
            for phase, loader in loaders.items():
                model.train(phase == "train")
                for images, labels, names in loader:
                    with torch.set_grad_enabled(phase == "train"):
                        logits = model(images)
                        loss = nn.functional.cross_entropy(logits, labels)
                    recorder.record(
                        epoch=epoch, phase=phase, inputs=images, logits=logits, labels=labels, ids=names, files=names, loss=loss
                    )
                    if phase == "train":
                        optimizer.zero_grad()
                        loss.backward()
                        optimizer.step()


if __name__ == "__main__":
    main()
