"""`make gpu-model`: writes benchmarks/results/gpu_model.json, and prints a row for each operator."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import nvcc
import torch
import triton
from record import RESULTS, commit, source_hash

from .gpus import A100, B200, GPUS, H100, LAUNCH_GAP_US
from .launches import Case, cases, cuda_launches, triton_launches
from .prediction import Prediction, predict, together

BATCHES = (4, 16)
BACKENDS = {"cuda": cuda_launches, "triton": triton_launches}
WHAT = (
    "PREDICTION, no GPU was used: share of copy bandwidth at the bytes that an operator must move, from its machine code; "
    "98 x 64 x 64 a sample, m = 6"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu_model.json")
    parser.add_argument("--backend", choices=BACKENDS, nargs="*", default=list(BACKENDS))
    parser.add_argument("--kind", choices=("f32", "bf16"), nargs="*", default=["f32", "bf16"])
    parser.add_argument("--batch", type=int, nargs="*", default=list(BATCHES))
    asked = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    for backend in asked.backend:
        for kind in asked.kind:
            for batch in asked.batch:
                for case in cases(batch, kind):
                    # Soft-argmax is one launch; at B 4 the steps alone are of interest, for their launches.
                    if batch == 16 or "step" in case.name:
                        name = f"{backend}, {kind}, B {batch}: {case.name}"
                        results[name] = entry = row(case, backend)
                        shares = ", ".join(f"{gpu.name} {entry[gpu.name.lower() + '_share']:.0%}" for gpu in GPUS)
                        print(f"{name}: {shares}; {entry['limit']}", flush=True)
    record = {
        "what": WHAT,
        "prediction": True,
        "device": "no GPU; " + ", ".join(gpu.name for gpu in GPUS),
        "compilers": f"nvcc {nvcc.version().removeprefix('nvcc ')}, triton {triton.__version__}",
        "torch": torch.__version__,
        "commit": commit(),
        "kernel_sources": source_hash(),
        "gpus": {gpu.name: dataclasses.asdict(gpu) for gpu in GPUS},
        "launch_gap_us": LAUNCH_GAP_US,
        "results": results,
    }
    asked.out.write_text(json.dumps(record, indent=1) + "\n")


def row(case: Case, backend: str) -> dict[str, Any]:
    """One operator on each GPU; what is beside the shares is of the H100."""
    entry: dict[str, Any] = {}
    kernels: dict[str, list[dict[str, Any]]] = {}
    for gpu in (H100, A100, B200):
        found = [predict(gpu, launch) for launch in BACKENDS[backend](case, gpu)]
        us = together(found)
        share = case.bytes / gpu.copy_bytes_per_s * 1e6 / us
        if gpu is H100:
            entry |= {"us": us, "h100_share": share}
            slowest = max(found, key=lambda p: p.us * (1 - p.share))
            passes = [p for p in found if p.bytes > case.bytes // 10] or found
            entry["narrowest_load"] = min(p.flight.narrowest for p in passes if p.flight.narrowest or p is passes[0])
            entry["in_flight_kb"] = min(p.in_flight_kb[1] for p in passes)
            entry["limit"] = slowest.limit if len(found) == 1 else f"{slowest.name.partition('<')[0]}: {slowest.limit}"
        else:
            entry[f"{gpu.name.lower()}_share"] = share
        kernels[gpu.name] = [flat(p) for p in found]
    return entry | {"kernels": kernels}


def flat(p: Prediction) -> dict[str, Any]:
    return {
        "name": p.name,
        "us": round(p.us, 2),
        "share": round(p.share, 3),
        "bytes": p.bytes,
        "registers": p.registers,
        "stack": p.stack,
        "blocks_at_once": p.blocks_at_once,
        "waves": round(p.waves, 2),
        "narrowest_load": p.flight.narrowest,
        "warp_bytes_in_flight": [p.flight.least, p.flight.most],
        "in_flight_kb": [round(v, 1) for v in p.in_flight_kb],
        "instructions_per_byte": round(p.instructions_per_byte, 4),
        "limit": p.limit,
    }


if __name__ == "__main__":
    main()
