"""Checkpoints by GPTQModel 7.7: make_gptqmodel.py REF OUT [name...]"""

import os
import sys
from pathlib import Path

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "4")
import torch
from gptqmodel import GPTQModel, QuantizeConfig
from gptqmodel.quantization import FORMAT, METHOD

BASE = {"bits": 4, "group_size": 32, "sym": True, "desc_act": False, "act_group_aware": False}
AWQ = {"bits": 4, "group_size": 32, "method": METHOD.AWQ, "format": FORMAT.GEMM}
RECIPES = {
    "gptq_v1": BASE | {"format": FORMAT.GPTQ},
    "gptq_v2_asym": BASE | {"sym": False, "format": FORMAT.GPTQ_V2},
    "gptq_act": BASE | {"desc_act": True},
    "gptq_dynamic": BASE | {"dynamic": {r".*\.0\..*mlp.*": {"bits": 8, "group_size": 64}, r"-:.*\.1\..*mlp.*": {}}},
    "gptq_3bit": BASE | {"bits": 3},
    "awq_gemm": AWQ | {"sym": False},
    "awq_gemm_sym": AWQ | {"sym": True},
}


def make(ref: str, target: Path, name: str) -> None:
    """One checkpoint by its recipe; calibrated on random tokens."""
    torch.manual_seed(0)
    rows = [{"input_ids": torch.randint(2, 280, (256,)).tolist(), "attention_mask": [1] * 256} for _ in range(4)]
    model = GPTQModel.load(ref, QuantizeConfig(**RECIPES[name]), device="cpu", dtype=torch.bfloat16)
    model.quantize(rows, batch_size=1)
    model.save(str(target))


if __name__ == "__main__":
    ref, out = sys.argv[1:3]
    for name in sys.argv[3:] or RECIPES:
        make(ref, Path(out) / name, name)
        print("OK", name, sorted(path.name for path in (Path(out) / name).iterdir()), flush=True)
