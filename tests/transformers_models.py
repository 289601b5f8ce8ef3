"""Small Transformers models, samples and trainers, for tests of the mixin.

trainer_of(recorder, tmp_path, tiny("bert-classes", num_labels=2), texts(lambda number, _: number % 2)).train()
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from capture_cli import Recorder, TransformersCapture

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
