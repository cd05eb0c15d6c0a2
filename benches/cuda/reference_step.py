"""Measures a GPU's limits, a training step of transformers + PEFT (medians of 20 runs after 5), and captions of transformers as
benches/generate.rs makes them. What benches/cuda/summary needs most is measured first. reference_step.py CHECKPOINT [rehearse]: a
rehearsal runs everything once on the CPU, for which the checkpoint should be small."""

import statistics
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import GitForCausalLM

TOKENS = 16
# As in benches/generate.rs.
CAPTION_TOKENS, PICTURES = 40, 16

REHEARSAL = sys.argv[2:] == ["rehearse"]
# A CPU may take minutes in bf16.
F32, TF32 = ("f32", torch.float32, False), ("tf32", torch.float32, True)
BF16 = ("bf16", torch.float32 if REHEARSAL else torch.bfloat16, True)
DEVICE = "cpu" if REHEARSAL else "cuda"
# Values of the copy, and rows of the products.
COPIED, SIZE = (1 << 16, 64) if REHEARSAL else (1 << 28, 8192)


def allow_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def synchronize() -> None:
    if not REHEARSAL:
        torch.cuda.synchronize()


def peak_memory() -> float:
    """The largest number of GB that tensors have used since the last call."""
    if REHEARSAL:
        return 0.0
    peak = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return peak


def median_seconds(run, warm_up: int = 5, runs: int = 20) -> float:
    if REHEARSAL:
        warm_up, runs = 0, 1
    seconds = []
    for _ in range(warm_up + runs):
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[warm_up:])


def copy() -> None:
    source = torch.empty(COPIED, device=DEVICE)
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source))
    print(f"copy: {2 * source.nbytes / seconds / 1e12:.2f} TB/s")


def product(name: str, dtype: torch.dtype, tf32: bool) -> None:
    allow_tf32(tf32)
    a, b = (torch.randn(SIZE, SIZE, device=DEVICE, dtype=dtype) for _ in range(2))
    seconds = median_seconds(lambda: a @ b)
    print(f"product {name}: {2 * SIZE**3 / seconds / 1e12:.0f} TFLOP/s")


def step(checkpoint: str, name: str, dtype: torch.dtype, tf32: bool, batch: int) -> None:
    allow_tf32(tf32)
    model = GitForCausalLM.from_pretrained(checkpoint, dtype=dtype).to(DEVICE).train()
    vocabulary = model.config.vocab_size
    targets = ["query", "key", "value", "dense"]
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=targets))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-5, fused=True)
    pixels = torch.randn(batch, 3, 224, 224, device=DEVICE, dtype=dtype)
    ids = torch.randint(1000, vocabulary, (batch, TOKENS), device=DEVICE)
    peak_memory()

    def run() -> None:
        mask = torch.ones_like(ids)
        model(input_ids=ids, attention_mask=mask, pixel_values=pixels, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    seconds = median_seconds(run)
    print(f"reference {name}, {batch}: {seconds * 1e3:.2f} ms, {batch / seconds:.0f} pictures/s, {peak_memory():.2f} GB")


def captions(checkpoint: str, name: str, dtype: torch.dtype, tf32: bool) -> None:
    allow_tf32(tf32)
    model = GitForCausalLM.from_pretrained(checkpoint, dtype=dtype).to(DEVICE).eval()
    # Nothing ends before the last token.
    lengths = {"min_new_tokens": CAPTION_TOKENS, "max_new_tokens": CAPTION_TOKENS}
    for pictures in (1, PICTURES):
        pixels = torch.randn(pictures, 3, 224, 224, device=DEVICE, dtype=dtype)
        for beams in (1, 2):
            options = {**lengths, "num_beams": beams, "do_sample": False}
            with torch.inference_mode():
                seconds = median_seconds(lambda: model.generate(pixel_values=pixels, **options), 1, 3)
            print(f"reference captions {name}, {pictures}, {beams} beams: {pictures / seconds:.2f} pictures/s")


def main(checkpoint: str) -> None:
    copy()
    for type in (F32, BF16):
        product(*type)
    for type in (F32, BF16):
        for batch in (8, 32):
            step(checkpoint, *type, batch)
    for type in (F32, BF16):
        captions(checkpoint, *type)
    product(*TF32)
    for batch in (8, 32):
        step(checkpoint, *TF32, batch)
    print("reference measured")


if __name__ == "__main__":
    main(sys.argv[1])
