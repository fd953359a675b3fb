#!/usr/bin/env bash
# The race of races/smollm2.yaml on a GPU: longer, with more seeds, in bf16, its selectors side by side. Where vLLM is
# installed, TRL then trains with rollouts of vLLM too.
#
#     scripts/gpu.sh [OUT [STEPS [SEEDS]]]     defaults: runs/gpu 300 2,3,4,5,6
#
# It stops after LIMIT seconds (default 540); when it is called again, runs that have a result are not made again. It
# needs runs/smollm2 (`make smollm2`) and PYTHON (default .venv/bin/python), an environment with the extra `train`.
# HELD_OUT is the number of held-out prompts of each kind (default 64). To try the script on a CPU:
#
#     HELD_OUT=2 LIMIT=1500 scripts/gpu.sh runs/gpu 2 2
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/gpu} steps=${2:-300} seeds=${3:-2,3,4,5,6}
python=${PYTHON:-.venv/bin/python}
deadline=$((SECONDS + ${LIMIT:-540}))
export PYTHONPATH=src HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
promptdyn() { timeout $((deadline > SECONDS ? deadline - SECONDS : 1)) \
    "$python" -c "from promptdyn.cli import main; main()" "$@"; }

mkdir -p "$out"
"$python" - "$out" "$steps" "$seeds" <<'PYTHON'
import os
import sys
from pathlib import Path

import yaml

out, steps, seeds = sys.argv[1:]
race = yaml.safe_load(Path("races/smollm2.yaml").read_text())
race["budget"] = int(steps) * race["prompts_per_step"] * race["num_generations"]
race["held_out"] = int(os.environ.get("HELD_OUT", race["held_out"]))
race["seeds"] = [int(seed) for seed in seeds.split(",")]
race["grpo"] = {**race["grpo"], "bf16": True}
Path(out, "race.yaml").write_text(yaml.safe_dump(race, sort_keys=False))
shared = ("model", "dataset", "num_prompts", "prompts_per_step", "num_generations", "max_completion_length")
train = {name: race[name] for name in shared}
train |= {"selector": "auto", "max_steps": int(steps), "learning_rate": 1e-5, "logging_steps": 1, "bf16": True}
train |= {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.3, "save_steps": 0}
Path(out, "vllm.yaml").write_text(yaml.safe_dump(train, sort_keys=False))
Path(out, "selectors").write_text("".join(f"{name}\n" for name in race["selectors"]))
PYTHON

nvidia-smi --query-gpu=name,memory.total --format=csv,noheader 2> /dev/null || echo "no GPU: this runs on the CPU"
while read -r name; do
    promptdyn race "$out/race.yaml" --out "$out" --only "$name" > "$out/${name// /_}.log" 2>&1 &
done < "$out/selectors"
wait
find "$out/runs" -name result.json | wc -l | xargs echo "runs with a result:"
promptdyn race "$out/race.yaml" --out "$out" || echo "not all runs have ended (see $out/*.log): call again to go on"

if "$python" -c "import vllm" 2> /dev/null; then
    promptdyn train --config "$out/vllm.yaml" --output-dir "$out/vllm"
else
    echo "vLLM is not installed here: TRL's use_vllm was not tried"
fi
