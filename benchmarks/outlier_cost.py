"""What it costs to put outliers back into a matrix that was unpacked, beside the products that the matrix is used for.

    python benchmarks/outlier_cost.py --size 2048 --tokens 1,512

EasyQuant and SpQR keep a share of the weights in 16 bit and write them over the unpacked matrix (`Outliers.put_into`).
For shares of 0.01 to 10% the shortest of ``--repeats`` runs of that is compared with the shortest product of the matrix
with so many tokens, float32, on one thread. EasyQuant's paper calls it less than 1% of the product. Limits: one process
on one machine; the shortest run is what is least disturbed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from quantgate.quantize.numerics.outliers import outliers_of

SHARES = (0.0001, 0.001, 0.003, 0.01, 0.03, 0.1)


def shortest(work: Callable[[], object], repeats: int) -> float:
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--tokens", type=lambda text: [int(each) for each in text.split(",")], default=[1, 512])
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(args.size, args.size, generator=draw)
    inputs = {count: torch.randn(count, args.size, generator=draw) for count in args.tokens}
    products = {count: shortest(lambda rows=rows: rows @ weight.T, args.repeats) for count, rows in inputs.items()}
    print(
        f"{args.size} x {args.size}, one thread: " + ", ".join(f"{1e3 * s:.2f} ms for {n}" for n, s in products.items())
    )
    print("| share | restoring, ms | " + " | ".join(f"of the product with {count} tokens" for count in products) + " |")
    print("|---|---|" + "---|" * len(products))
    for share in SHARES:
        mask = torch.rand(weight.shape, generator=draw) < share
        outliers = outliers_of(weight, mask, torch.float16)
        target = weight.clone()
        seconds = shortest(lambda outliers=outliers, target=target: outliers.put_into(target), args.repeats)
        cells = " | ".join(f"{seconds / product:.1%}" for product in products.values())
        print(f"| {share:.2%} | {1e3 * seconds:.3f} | {cells} |")


if __name__ == "__main__":
    main()
