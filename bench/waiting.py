"""Training on two threads, alone and beside a process that takes one core: threads that spin against threads that sleep.

usage: bench/waiting.py MANIFEST    (train shards, e.g. demo/results/shard/…/train/manifest.json)
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SIZES = '--config={"n_layer": 2, "n_embd": 128, "n_head": 4}'
KNOBS = "--block-size=128 --global-batch-size=16 --max-steps=40 --mixed-precision=no --logging-steps=39 --cpus=2"


def tokens_per_second(manifest: str, policy: str) -> int:
    """Speed of 39 steps of a GPT-2 of 2 layers and width 128."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "jalm", "pretrain", "--architecture=gpt2", SIZES, '--corpora={"a": 1}']
        files = ["--train", manifest, "--valid", manifest, "--states", f"{folder}/states", "--output", f"{folder}/out"]
        environment = {**os.environ, "OMP_WAIT_POLICY": policy.removeprefix("default")}  # empty: libgomp's own
        subprocess.run([*command, *KNOBS.split(), *files], env=environment, check=True, capture_output=True)
        return json.loads(Path(folder, "out/log.jsonl").read_text().splitlines()[1])["tokens_per_second"]


if __name__ == "__main__":
    for beside in (False, True):
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if beside else None
        try:
            speeds = {policy: tokens_per_second(sys.argv[1], policy) for policy in ("default", "PASSIVE")}
        finally:
            if other:
                other.kill()
        ratio = speeds["PASSIVE"] / speeds["default"]
        print(f"{'beside one process' if beside else 'alone':<20} {speeds} tokens/s, passive/default {ratio:.2f}")
