"""The resources of each compiled CUDA kernel: registers, spills, shared memory, 16-byte accesses.

    python -m bench.kernels.cuda_resources LIBNCK_CUDA [--cuobjdump COMMAND]

Reads the machine code of the built library. Needs no GPU, but cuobjdump and nvdisasm, which are in
the CUDA toolkit and in the packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm. Writes
results/kernels/cuda_resources.csv. Fails if a kernel uses local memory, or moves a matrix in
accesses of less than 16 bytes.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from bench.command import ROOT, command_parser

RESULT = ROOT / "bench" / "results" / "kernels" / "cuda_resources.csv"
TARGETS = ("sm_80", "sm_90")
# Kernels that move whole matrices. Clusters need sm_90; for older targets their kernel is empty.
WIDE = {
    "sm_80": ("block_rows", "scale_rows", "small_rows", "streamed_rows"),
    "sm_90": ("block_rows", "cluster_rows", "scale_rows", "small_rows", "streamed_rows"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One kernel's machine code on one target."""

    kernel: str
    storage: str  # of the matrix; empty for kernels without one
    variant: str  # template arguments besides the storage
    target: str
    registers: int  # per thread
    stack_bytes: int  # per thread
    spills: int  # instructions that read or write local memory
    shared_bytes: int  # per block, without dynamic shared memory
    loads_16: int  # instructions that read 16 bytes per thread from global memory
    stores_16: int  # instructions that write 16 bytes per thread to global memory
    instructions: int


def run_cuobjdump(command: str, library: Path, *options: str) -> str:
    # cuobjdump searches PATH for nvdisasm; the packages install both in one folder.
    path = os.pathsep.join((str(Path(command).parent), os.environ.get("PATH", "")))
    done = subprocess.run(
        [command, *options, str(library)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
    )
    return done.stdout


def describe(mangled: str) -> tuple[str, str, str]:
    """Return the name, the storage and the other template arguments of a mangled kernel."""
    rest, name = mangled.removeprefix("_ZN"), ""
    while length := re.match(r"\d+", rest):
        begin, end = length.end(), length.end() + int(length[0])
        name, rest = rest[begin:end], rest[end:]
    storage = re.search(r"B?Float(16|32)", rest)
    plain = {"Lb1E": "plain", "Lb0E": "general"}
    arguments = [plain[flag] for flag in re.findall(r"Lb[01]E", rest)]
    arguments += [f"{slots} slots" for slots in re.findall(r"Li(\d+)E", rest)]
    return name, storage[0] if storage else "", ", ".join(arguments)


def usages(text: str) -> dict[str, dict[str, int]]:
    """Return REG, STACK, SHARED, … of each mangled kernel."""
    found = re.findall(r"Function (\S+):\n\s*(REG:.*)", text)
    return {
        name: {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", figures)}
        for name, figures in found
    }


def codes(text: str) -> dict[str, list[str]]:
    """Return the instructions of each mangled kernel, without addresses and predicates."""
    result: dict[str, list[str]] = {}
    for part in text.split("Function : ")[1:]:
        name, _, body = part.partition("\n")
        lines = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", body)
        result[name.strip()] = lines
    return result


def kernels_of(command: str, library: Path, target: str) -> list[Kernel]:
    usage = usages(run_cuobjdump(command, library, "-arch", target, "--dump-resource-usage"))
    code = codes(run_cuobjdump(command, library, "-arch", target, "-sass"))
    assert usage.keys() == code.keys(), "the two dumps list different kernels"
    result = []
    for mangled, figures in usage.items():
        name, storage, variant = describe(mangled)
        operations = code[mangled]
        result.append(
            Kernel(
                kernel=name,
                storage=storage,
                variant=variant,
                target=target,
                registers=figures["REG"],
                stack_bytes=figures["STACK"],
                spills=sum(op.startswith(("LDL", "STL")) for op in operations),
                shared_bytes=figures["SHARED"],
                loads_16=sum(bool(re.match(r"LDG(STS)?\..*128", op)) for op in operations),
                stores_16=sum(bool(re.match(r"STG\..*128", op)) for op in operations),
                instructions=len(operations),
            )
        )
    return sorted(result, key=lambda each: (each.kernel, each.storage, each.variant))


def check(kernels: list[Kernel]) -> None:
    spilling = [kernel for kernel in kernels if kernel.spills or kernel.stack_bytes]
    if spilling:
        raise SystemExit(f"kernels must not use local memory, got {spilling}")
    without_16 = [
        kernel
        for kernel in kernels
        if kernel.kernel in WIDE[kernel.target] and not (kernel.loads_16 and kernel.stores_16)
    ]
    if without_16:
        raise SystemExit(f"kernels must load and store 16 bytes, got {without_16}")


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("library", type=Path)
    parser.add_argument("--cuobjdump", default="cuobjdump")
    arguments = parser.parse_args()
    kernels = [
        kernel
        for target in TARGETS
        for kernel in kernels_of(arguments.cuobjdump, arguments.library, target)
    ]
    names = [field.name for field in fields(Kernel)]
    with RESULT.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(kernel) for kernel in kernels)
    for kernel in kernels:
        print(*(f"{value!s:>14}" for value in asdict(kernel).values()))
    check(kernels)


if __name__ == "__main__":
    main()
