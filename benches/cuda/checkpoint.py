"""checkpoint.py FOLDER [small]: writes a checkpoint of git-base's shapes with random weights, or a small one with which benches/cuda/run
is rehearsed without a GPU."""

import sys

from transformers import GitConfig, GitForCausalLM

SMALL = {
    "vocab_size": 2000,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 256,
    "vision_config": {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 256,
        "patch_size": 56,
    },
}

if __name__ == "__main__":
    config = GitConfig(tie_word_embeddings=False, **(SMALL if sys.argv[2:] == ["small"] else {}))
    model = GitForCausalLM(config)
    model.save_pretrained(sys.argv[1])
    print(f"{sum(parameter.numel() for parameter in model.parameters())} parameters")
