"""Two processes learn together, one writes: the other waits for it."""

import os
import subprocess
import sys

CHILD = """
import os, sys, time
from pathlib import Path
from torch import distributed
from ctxcompress_integrations.training.processes import is_main, on_main

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
os.environ["RANK"] = str(rank)
distributed.init_process_group("gloo", init_method=f"file://{folder}/met", rank=rank, world_size=2)

def write():
    time.sleep(0.5)
    (folder / f"by-{rank}").write_text("")

on_main(write)
assert (folder / "by-0").exists(), "came on before the file was there"
assert is_main() == (rank == 0)
distributed.destroy_process_group()
"""


def test_one_process_writes_and_the_other_waits(tmp_path):
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, str(rank), str(tmp_path)], env=dict(os.environ))
        for rank in range(2)
    ]
    try:
        assert [child.wait(timeout=120) for child in children] == [0, 0]
    finally:
        for child in children:
            child.kill()
    assert sorted(path.name for path in tmp_path.glob("by-*")) == ["by-0"]
