"""Checkpoints by auto-round 0.16, without tuning: make_autoround.py REF OUT [format...]"""

import sys
from pathlib import Path

import torch
from auto_round import AutoRound
from transformers import AutoModelForCausalLM, AutoTokenizer

FORMATS = ("auto_round", "auto_round:auto_awq", "auto_gptq")

if __name__ == "__main__":
    ref, out = sys.argv[1:3]
    for form in sys.argv[3:] or FORMATS:
        name = f"ar_{form.replace(':', '_')}"
        model = AutoModelForCausalLM.from_pretrained(ref, dtype=torch.bfloat16)
        words = AutoTokenizer.from_pretrained(ref)
        rounded = AutoRound(
            model, words, bits=4, group_size=32, sym="awq" not in form, iters=0, device_map="cpu",
            disable_opt_rtn=True,
        )  # fmt: skip
        rounded.quantize_and_save(str(Path(out) / name), format=form)
        print("OK", name, flush=True)
