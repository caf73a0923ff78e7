"""Cells of paper A (Jin et al. 2024): table 2 and its detail tables, as printed.

Not goldens, because they are misprinted there: 14B bf16 FollowBench (a copy of 72B's), the 14B ROUGE-L of bf16 and
GPTQ-8, the memory of 14B SpQR-3, and the mean perplexity of 7B SpQR-3 (13.40; its three cells average
12.40, which is used).
"""

from dataclasses import replace

from quantgate.core.cases import CaseKey
from quantgate.core.records import Result
from quantgate.reports.payload import invalid_result

# model, bits, method: accuracy, GB (256 in, 512 out), tokens/s
TABLE_2 = {
    ("7B", 16, "bf16"): (57.10, 15.14, 37.67),
    ("7B", 8, "int8"): (56.67, 9.23, 7.19),
    ("7B", 8, "gptq"): (57.21, 10.91, 13.57),
    ("7B", 4, "gptq"): (54.86, 7.83, 37.43),
    ("7B", 3, "gptq"): (51.42, 7.12, 8.21),
    ("14B", 16, "bf16"): (62.92, 27.60, 25.15),
    ("14B", 8, "int8"): (62.48, 15.91, 5.85),
    ("14B", 8, "gptq"): (62.67, 17.92, 14.37),
    ("14B", 4, "gptq"): (61.53, 12.03, 24.38),
    ("14B", 3, "gptq"): (58.34, 10.77, 4.71),
    ("72B", 16, "bf16"): (71.76, 138.44, 8.97),
    ("72B", 4, "gptq"): (71.38, 44.11, 14.88),
}

# the twelve subjects of the correlation figure: {7B, 14B, 72B} x {GPTQ-4, SpQR-4, GPTQ-3, SpQR-3}
PERPLEXITY = (12.31, 11.97, 15.10, 12.40, 10.29, 9.94, 13.94, 10.19, 8.77, 8.64, 10.19, 8.84)
SCORES = {
    "mmlu": (54.27, 55.44, 51.32, 54.56, 63.42, 64.07, 59.69, 63.33, 73.81, 74.40, 69.71, 73.78),
    "ceval": (57.3, 58.2, 50.6, 57.0, 67.2, 68.2, 61.3, 67.6, 78.1, 78.5, 70.1, 76.9),
    "gsm8k": (0.47, 0.52, 0.39, 0.49, 0.60, 0.61, 0.51, 0.59, 0.79, 0.78, 0.71, 0.76),
    "snli": (0.80, 0.80, 0.80, 0.80, 0.79, 0.81, 0.81, 0.79, 0.83, 0.84, 0.82, 0.84),
    "truthfulqa": (0.36, 0.37, 0.36, 0.37, 0.38, 0.39, 0.39, 0.38, 0.43, 0.44, 0.41, 0.42),
    "bbq_ambiguous": (5.49, 6.34, 4.21, 6.31, 7.82, 7.96, 8.41, 8.03, 10.11, 8.73, 8.77, 8.24),
    "bbq_disambiguated": (3.69, 3.77, 4.90, 4.08, 4.11, 3.86, 3.88, 3.11, 1.76, 1.52, 3.11, 1.97),
    "followbench_hsr": (39.84, 40.26, 35.82, 36.03, 48.66, 46.84, 43.91, 47.83, 52.81, 53.81, 52.73, 52.82),
    "followbench_ssr": (52.13, 51.59, 47.77, 49.44, 57.47, 56.27, 53.38, 57.65, 61.43, 62.14, 61.38, 61.42),
    "followbench_csl": (1.38, 1.48, 1.27, 1.30, 1.90, 1.78, 1.62, 1.85, 2.13, 2.10, 2.02, 2.22),
}
PUBLISHED_R = {
    "mmlu": -0.892,
    "ceval": -0.930,
    "gsm8k": -0.911,
    "snli": -0.583,
    "truthfulqa": -0.789,
    "bbq_ambiguous": -0.765,
    "bbq_disambiguated": 0.806,
    "followbench_hsr": -0.864,
    "followbench_ssr": -0.899,
    "followbench_csl": -0.877,
}


# Table 2's means of two benchmarks, where their own cells are not at hand for all twelve: BLEU of both directions, and
# ROUGE of XSum and CNN/DailyMail.
MEANS = {
    "bleu": (28.43, 29.59, 24.22, 28.39, 31.40, 31.47, 28.92, 31.09, 34.03, 34.72, 30.98, 34.08),
    "rouge1": (0.254, 0.256, 0.228, 0.253, 0.252, 0.252, 0.237, 0.253, 0.298, 0.299, 0.269, 0.292),
    "rouge2": (0.084, 0.086, 0.067, 0.083, 0.082, 0.083, 0.073, 0.082, 0.112, 0.114, 0.096, 0.109),
    "rougeL": (0.167, 0.168, 0.149, 0.166, 0.165, 0.165, 0.155, 0.165, 0.201, 0.201, 0.178, 0.196),
}
PUBLISHED_PAIRS = {
    "bleu": (-0.884, -0.904),
    "rouge1": (-0.768, -0.890),
    "rouge2": (-0.493, -0.849),
    "rougeL": (-0.222, -0.885),
}
# WikiText-2, C4, PTB of the rows whose three cells are printed
CORPORA = {
    ("7B", 4, "gptq"): (9.04, 12.72, 15.16),
    ("7B", 4, "spqr"): (8.82, 12.31, 14.80),
    ("7B", 3, "gptq"): (11.17, 15.47, 18.67),
    ("7B", 3, "spqr"): (9.17, 12.75, 15.27),
    ("14B", 4, "gptq"): (7.35, 10.99, 12.54),
    ("14B", 4, "spqr"): (7.07, 10.64, 12.10),
    ("14B", 3, "gptq"): (9.68, 14.59, 17.54),
    ("14B", 3, "spqr"): (7.31, 10.92, 12.36),
    ("72B", 4, "gptq"): (6.37, 8.97, 10.97),
    ("72B", 4, "spqr"): (6.23, 8.77, 10.91),
    ("72B", 3, "gptq"): (7.58, 10.51, 12.48),
    ("72B", 3, "spqr"): (6.43, 9.00, 11.08),
}


def result(method: str, task: str, value: float, metric: str = "acc", reference: float = 0.5) -> Result:
    """A case's record that holds these numbers and nothing else."""
    return replace(
        invalid_result(CaseKey(method, task), "knowledge", "", metric=metric), value=value, reference=reference
    )
