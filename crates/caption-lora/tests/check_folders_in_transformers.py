"""Opens folders that were merged or fully fine-tuned here with transformers, and compares with the base and PEFT.

    python check_folders_in_transformers.py BASE ADAPTER MERGED [FULL]

MERGED must give the logits of BASE with ADAPTER (to the rounding of its type) and be stored in the type that its config.json names;
FULL, the model/ of a run with --tune full, must open in the same way.
"""

import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoProcessor


@torch.no_grad()
def logits(model, size):
    pixels = torch.linspace(-1, 1, 3 * size * size).reshape(1, 3, size, size)
    return model.float().eval()(input_ids=torch.tensor([[2, 10, 11, 12]]), pixel_values=pixels).logits


def opened(folder):
    AutoProcessor.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    stored = {tensor.dtype for tensor in load_file(Path(folder) / "model.safetensors").values()}
    assert stored == {model.dtype}, (stored, model.dtype)
    print(f"{folder}: {model.dtype}, {sorted(path.name for path in Path(folder).iterdir())}")
    return model


def main(base, adapter, merged, *full):
    model = opened(merged)
    size = model.config.vision_config.image_size
    expected = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter), size)
    plain = logits(AutoModelForCausalLM.from_pretrained(base), size)
    bound = 1e-5 if model.dtype == torch.float32 else 0.05
    error, change = [((logits - expected).abs().max() / expected.abs().max()).item() for logits in (logits(model, size), plain)]
    print(f"largest error {error:.1e} of the largest logit, the adapter's effect {change:.1e}")
    assert error < bound and error < change
    for folder in full:
        print(f"full: {(logits(opened(folder), size) - plain).abs().max().item():.2e} from the base")


if __name__ == "__main__":
    main(*sys.argv[1:])
