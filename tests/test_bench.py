"""What the benches show is seen; that they start, and print all of it, is tested."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"
TINY = [
    "--layers",
    "1",
    "--width",
    "64",
    "--context",
    "32",
    "--batch",
    "2",
    "--vocabulary",
    "300",
    "--rounds",
    "1",
    "--steps",
    "1",
    "--precision",
    "no",
]


@pytest.mark.slow
def test_training_speed_is_measured_by_one_command_without_options_but_sizes():
    ran = subprocess.run([sys.executable, BENCH / "train.py", *TINY], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    told = re.findall(r"(?m)^(\S.*?) {2,}[\d,]+ +\d+\.\d\d +[\d,]+ +\d+\.\d\d( +\d+\.\d%)? *$", ran.stdout)
    assert [name for name, _ in told] == [
        *("ours", "ours, not compiled", "Trainer", "Trainer, compiled"),
        *("ours", "ours, not compiled", "ours, 30 % masked", "padded RoBERTa"),
    ]
