#!/usr/bin/env bash
# The pipeline of the README on real CIFAR-10 images with a ConvNet small enough for two cores.
# Usage: docs/cifar10.sh DATA OUTPUT_FOLDER      DATA as for --data, such as cifar10:DIR or folder:DIR/cifar10
# Measured results and the hardware they were measured on: docs/measured.md
set -euo pipefail
data=$1
out=$2
mkdir -p "$out"
net=convnet-d3-w32
run() { echo "\$ ddlabel $*" && ddlabel "$@"; }
score() { run evaluate "$out/$1.ddset" --data "$data" --arch "$net" --seeds 3 "${@:2}" --force -o "$out/$1-scored.ddset"; }

start=$SECONDS
run train-teacher --data "$data" --arch "$net" --epochs 20 --keep 5,10,20 --set lr=0.05 --set momentum=0.9 \
  --force -o "$out/teacher.ddset"
run distill --data "$data" --method dm --ipc 10 --arch "$net" --set steps=1000 --set batch_real=128 \
  --force -o "$out/base.ddset"
run augment-labels "$out/base.ddset" --teacher "$out/teacher.ddset" --checkpoint 10 --kind soft --codec f16 \
  --force -o "$out/soft.ddset"
run augment-labels "$out/base.ddset" --teacher "$out/teacher.ddset" --checkpoint 10 --kind dense --codec q8 \
  --force -o "$out/dense.ddset"
run refine "$out/dense.ddset" --method gift --force -o "$out/gift.ddset"
score base --baselines
score soft
score dense --baselines --teacher "$out/teacher.ddset"
score gift
run inspect "$out"/{base,soft,dense,gift}-scored.ddset
echo "took $(((SECONDS - start) / 60)) minutes"
