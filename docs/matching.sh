#!/usr/bin/env bash
# Matching methods beside random images on CIFAR-10, at 1 and 10 images per class, with a ConvNet small enough for two cores.
# Usage: docs/matching.sh DATA OUTPUT_FOLDER      DATA as for --data, such as cifar10:DIR or folder:DIR/cifar10
# A fifth of the training images is used (--validation 0.8), and budgets are far below the published ones.
# Measured results and the hardware they were measured on: docs/measured.md; docs/tables_matching.py writes the table.
set -euo pipefail
data=$1
out=$2
here=$(realpath "$(dirname "$0")")
mkdir -p "$out"
case $data in *:*) data=${data%%:*}:$(realpath -m "${data#*:}") ;; esac # the folder changes below
cd "$out"
net=convnet-d3-w32
run() { echo "\$ ddlabel $*" && ddlabel "$@" --threads 1 --force; }
distill() { run distill --data "$data" --validation 0.8 --method "$1" --ipc "$2" "${@:4}" -o "$3-$2.ddset"; }
score() { run evaluate "$1.ddset" --data "$data" --arch "$net" --seeds 3 "${@:2}" -o "$1-scored.ddset"; }
experts() {
  run train-teacher --data "$data" --validation 0.8 --arch "$net" --experts 4 --epochs 12 --optimizer gsam \
    --set batch=64 --set lr=0.02 "${@:2}" -o "$1.ddset"
}

experts experts
experts pad-experts --scores el2n --curriculum pad --set score_nets=3 --set score_epoch=5 --set score_arch=$net \
  --set aee=4 --set r1_epoch=8 --set r2_epoch=10

for ipc in 1 10; do
  distill dm $ipc dm --arch $net --set steps=1000 --set batch_real=64 --pixels float32
  score dm-$ipc --baselines
done
distill dc 1 dc --arch $net --set steps=300 --set batch_real=64 --set init=real
distill dc 10 dc --arch $net --set steps=40 --set outer=5 --set inner=5 --set batch_real=64 --set init=real
score dc-1
score dc-10

# Trajectories. mtt, datm and pad are matched to the same experts, datm-fiex and pad-fiex to experts with PAD's curriculum.
# As published, pad-fiex matches all parameters at one image per class; pad without a mask would be datm there.
for ipc in 1 10; do
  match="--set syn_steps=20 --set expert_epochs=2 --set lr_param=log --set lr_lr=0.02 --set syn_lr=0.03 --pixels float32"
  if [ $ipc = 1 ]; then
    fiex=0 own="--set steps=600 --set lr_images=300 --set max_start_epoch=3"
    grow="--set current_max_start_epoch=2 --set interval=200 --set batch_syn=10 --set lr_label=5"
  else
    fiex=0.25 own="--set steps=400 --set lr_images=1000 --set max_start_epoch=8 --set batch_syn=25"
    grow="--set current_max_start_epoch=4 --set interval=50 --set lr_label=2"
  fi
  # shellcheck disable=SC2086
  {
    distill datm $ipc datm --teacher experts.ddset $match $own $grow
    distill pad $ipc pad --teacher experts.ddset $match $own $grow --mask-shallow 0.25
    distill mtt $ipc mtt --teacher experts.ddset $match $own
    [ $ipc = 1 ] || distill datm $ipc datm-fiex --teacher pad-experts.ddset $match $own $grow
    distill pad $ipc pad-fiex --teacher pad-experts.ddset $match $own $grow --mask-shallow $fiex
  }
  for name in datm pad pad-fiex; do score $name-$ipc --protocol datm; done
  [ $ipc = 1 ] || score datm-fiex-$ipc --protocol datm
  score mtt-$ipc --protocol mtt
done
python "$here/tables_matching.py" .
