"""GPUs by their data sheets, nodes, prices."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from humpback_ray.errors import UserError

GIB = 2**30


# --- hardware -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GpuModel:
    """One kind of GPU, by its data sheet."""

    name: str
    memory_gib: float  # total capacity as PyTorch reports it, less than the round figure
    bf16_tflops: float  # dense; the sheets print twice that, with sparsity
    memory_gb_per_second: float
    link_gb_per_second: float  # to the other GPUs of a node, one direction
    network_gb_per_second: float  # of a node of eight, all its adapters together

    @property
    def memory(self) -> int:
        return int(self.memory_gib * GIB)

    @property
    def max_sequences(self) -> int:
        """vLLM's default of max_num_seqs (0.29, EngineArgs)."""
        return 1024 if self.memory_gib >= 70 and not self.name.startswith("A100") else 256


# Compute, bandwidth and links: the vendor's data sheets, checked in November 2026 against pages
# that quote them.
#   A100  nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/
#         nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf (SXM; NVLink 600 GB/s both ways)
#   H100  resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet (SXM; 900 GB/s)
#   H200  nvidia.com/en-us/data-center/h200 (SXM; 900 GB/s)
#   L40S  nvidia.com/en-us/data-center/l40s (PCIe Gen4 x16: 64 GB/s both ways, as the next two)
#   L4    nvidia.com/en-us/data-center/l4
#   A10G  d1.awsstatic.com/product-marketing/ec2/NVIDIA_AWS_A10G_DataSheet_FINAL_02_17_2022.pdf
# Networks: eight adapters of 200 Gbit/s (DGX A100) or 400 Gbit/s (DGX H100 and H200); 100 Gbit/s
# for the PCIe cards, as AWS's largest G5 and G6 machines have.
GPUS = {
    gpu.name: gpu
    for gpu in (
        GpuModel("A100-40", 39.5, 312, 1555, 300, 200),
        GpuModel("A100-80", 79.1, 312, 2039, 300, 200),
        GpuModel("H100", 79.1, 989, 3350, 450, 400),
        GpuModel("H200", 139.0, 989, 4800, 450, 400),
        GpuModel("L40S", 44.4, 362, 864, 32, 12.5),
        GpuModel("L4", 22.0, 121, 300, 32, 12.5),
        GpuModel("A10G", 22.0, 70, 600, 32, 12.5),
    )
}


@dataclass(frozen=True)
class Hardware:
    """Nodes of equal GPUs."""

    gpu: GpuModel
    gpus_per_node: int
    num_nodes: int = 1

    @property
    def num_gpus(self) -> int:
        return self.gpus_per_node * self.num_nodes


def parse_hardware(text: str, num_nodes: int = 1) -> Hardware:
    """`8xH100` and a number of nodes as hardware.

    Raises:
        UserError: not of that form, an unknown GPU (with the nearest known one), no node.
    """
    example = "write COUNTxGPU for one node, for example 8xH100"
    match = re.fullmatch(r"(\d+)x([\w.-]+)", text.strip(), re.IGNORECASE)
    if not match or int(match[1]) < 1:
        raise UserError(f"--hardware {text!r}: {example}; GPUs: {', '.join(GPUS)}")
    if num_nodes < 1:
        raise UserError(f"--nodes {num_nodes}: at least one node is needed")
    name = match[2].upper().removesuffix("GB")
    if name not in GPUS:
        close = [known for known in GPUS if known.startswith(name)]
        close = close or difflib.get_close_matches(name, GPUS, n=1, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise UserError(f"--hardware {text!r}: unknown GPU {match[2]!r}; {hint}"
                         f"{example}; GPUs: {', '.join(GPUS)}")  # fmt: skip
    return Hardware(GPUS[name], int(match[1]), num_nodes)


def parse_price(text: str) -> float:
    """`2.5/gpu-hour` or `2.5` as money for one GPU and hour.

    Raises:
        UserError: not of that form, or negative.
    """
    number, _, unit = text.strip().partition("/")
    # float() would also take nan, inf and 1_0.
    if not re.fullmatch(r"\d+(\.\d+)?", number) or unit not in ("", "gpu-hour"):
        raise UserError(f"--price {text!r}: write what one GPU costs for one hour as a number of "
                         "at least 0, for example 2.5/gpu-hour")  # fmt: skip
    return float(number)
