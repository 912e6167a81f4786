"""The interpreter takes what the compiler refuses; so each kernel is compiled as well, on any machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
KERNELS = {
    "triton_candidates": ["_scan_kernel", "_groups_kernel", "_candidates_kernel", "_sort_kernel"],
    "triton_sample": ["_finish_kernel"],
    "triton_whole": ["_sample_kernel"],
    "triton_reveal": ["_score_kernel", "_rank_kernel"],
    "triton_rowwise": ["_add_norm_kernel", "_rotate_kernel", "_gate_kernel"],
}


@pytest.mark.parametrize(
    "dtype", ["bfloat16", *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in ("float16", "float32"))]
)
def test_every_kernel_compiles_for_cuda(dtype: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "TRITON_CACHE_DIR": str(tmp_path)}
    script = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run([sys.executable, script, dtype], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    compiled = {line.split()[0] for line in done.stdout.splitlines()}
    assert compiled == {f"unmask_kernels.{file}.{kernel}" for file, kernels in KERNELS.items() for kernel in kernels}


def test_a_kernel_is_compiled_once_whatever_the_number_of_rows() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    script = Path(__file__).with_name("count_binaries.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    counts = dict(line.split() for line in done.stdout.splitlines())
    assert counts == {
        kernel: "1" for file, kernels in KERNELS.items() if file != "triton_rowwise" for kernel in kernels
    }


def test_triton_is_imported_only_when_asked_for() -> None:
    names = ", ".join(f"unmask_kernels.{name}" for name in ("sample", "reveal", "rowwise"))
    script = f"import sys, {names}; sys.exit('triton' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
