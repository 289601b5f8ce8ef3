"""Draw the likeliest wrong labels of a run as one picture: docs/real_errors.png, from Fashion-MNIST as it is published.

    python benchmarks/fashion.py data
    capture train data/fashion10k --val-split 0 --out run
    python benchmarks/real_errors.py run docs/real_errors.png

Row by row, the likeliest first. Below each picture: its label, then what the network takes it for.
"""

import sys
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw

from capture_cli.answers.suspects import find_suspects
from capture_cli.runs import open_run

COLUMNS, COUNT = 12, 60
SIDE, CAPTION = 84, 26
"""Pixels of a picture, and of the two lines below it."""


def draw(run_name: str, out: Path) -> None:
    """Write the picture."""
    with open_run(run_name) as run:
        suspects = find_suspects(run).suspects[:COUNT]
        pictures = [Image.open(BytesIO(run.images.read(one.file))) for one in suspects]
    sheet = Image.new("L", (COLUMNS * (SIDE + 6), -(-len(suspects) // COLUMNS) * (SIDE + CAPTION + 8)), 255)
    pen = ImageDraw.Draw(sheet)
    for number, (one, picture) in enumerate(zip(suspects, pictures, strict=True)):
        x, y = number % COLUMNS * (SIDE + 6) + 3, number // COLUMNS * (SIDE + CAPTION + 8) + 3
        sheet.paste(picture.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y))
        pen.text((x, y + SIDE + 1), f"{number + 1} {one.label}\n> {one.suggested}", fill=0, font_size=11, spacing=1)
    sheet.quantize(32).save(out, optimize=True)


if __name__ == "__main__":
    draw(sys.argv[1], Path(sys.argv[2]))
