"""Measures a GPU's limits, a training step of transformers + PEFT (medians of 20 runs after 5), and captions of transformers as
benches/generate.rs makes them. reference_step.py CHECKPOINT"""

import statistics
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import GitForCausalLM

TOKENS = 16
# As in benches/generate.rs.
CAPTION_TOKENS, PICTURES = 40, 16
TYPES = [("f32", torch.float32, False), ("tf32", torch.float32, True), ("bf16", torch.bfloat16, True)]


def median_seconds(run, warm_up: int = 5, runs: int = 20) -> float:
    seconds = []
    for _ in range(warm_up + runs):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[warm_up:])


def ceilings() -> None:
    source = torch.empty(1 << 28, device="cuda")
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source))
    print(f"copy: {2 * source.nbytes / seconds / 1e12:.2f} TB/s")
    del source, target
    for name, dtype, tf32 in TYPES:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
        seconds = median_seconds(lambda: a @ b)
        print(f"product {name}: {2 * 8192**3 / seconds / 1e12:.0f} TFLOP/s")


def step(checkpoint: str, name: str, dtype: torch.dtype, tf32: bool, batch: int) -> None:
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.cuda.reset_peak_memory_stats()
    model = GitForCausalLM.from_pretrained(checkpoint, dtype=dtype).cuda().train()
    targets = ["query", "key", "value", "dense"]
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=targets))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-5, fused=True)
    pixels = torch.randn(batch, 3, 224, 224, device="cuda", dtype=dtype)
    ids = torch.randint(1000, 30000, (batch, TOKENS), device="cuda")

    def run() -> None:
        mask = torch.ones_like(ids)
        model(input_ids=ids, attention_mask=mask, pixel_values=pixels, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    seconds = median_seconds(run)
    peak = torch.cuda.max_memory_allocated() / 1e9
    print(f"reference {name}, {batch}: {seconds * 1e3:.2f} ms, {batch / seconds:.0f} pictures/s, {peak:.2f} GB")


def captions(checkpoint: str, name: str, dtype: torch.dtype) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    model = GitForCausalLM.from_pretrained(checkpoint, dtype=dtype).cuda().eval()
    # Nothing ends before the last token.
    lengths = {"min_new_tokens": CAPTION_TOKENS, "max_new_tokens": CAPTION_TOKENS}
    for pictures in (1, PICTURES):
        pixels = torch.randn(pictures, 3, 224, 224, device="cuda", dtype=dtype)
        for beams in (1, 2):
            options = {**lengths, "num_beams": beams, "do_sample": False}
            with torch.inference_mode():
                seconds = median_seconds(lambda: model.generate(pixel_values=pixels, **options), 1, 3)
            print(f"reference captions {name}, {pictures}, {beams} beams: {pictures / seconds:.2f} pictures/s")


if __name__ == "__main__":
    ceilings()
    for batch in (8, 32):
        for name, dtype, tf32 in TYPES:
            step(sys.argv[1], name, dtype, tf32, batch)
            torch.cuda.empty_cache()
    for name, dtype, _ in (TYPES[0], TYPES[2]):
        captions(sys.argv[1], name, dtype)
        torch.cuda.empty_cache()
