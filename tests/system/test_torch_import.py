"""The import of torch on another thread, and what is different meanwhile."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from nanochat.system.torch_import import importing


@pytest.mark.parametrize("enabled", [True, False])
def test_the_last_block_to_end_restores_the_collector_and_the_turns(enabled: bool) -> None:
    was_enabled, turn_s = gc.isenabled(), sys.getswitchinterval()
    try:
        (gc.enable if enabled else gc.disable)()
        first, second = importing(), importing()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert not gc.isenabled()
        assert sys.getswitchinterval() < turn_s
        second.__exit__(None, None, None)
        assert (gc.isenabled(), sys.getswitchinterval()) == (enabled, turn_s)
    finally:
        (gc.enable if was_enabled else gc.disable)()


def test_torch_works_after_its_libraries_were_loaded_first() -> None:
    code = (
        "import sys, threading\n"
        "from nanochat.system import torch_import\n"
        "assert 'torch' not in sys.modules\n"
        "torch_import.begin()\n"
        "assert 'import torch' in [each.name for each in threading.enumerate()]\n"
        "import torch\n"
        "print(torch.ones(3, requires_grad=True).sum().item())\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("3.0\n", "")
