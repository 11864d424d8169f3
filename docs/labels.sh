#!/usr/bin/env bash
# What labels gain and what they cost, on real images with ConvNets small enough for two cores.
# Usage: docs/labels.sh cifar10|imagenette|size128 DATA OUTPUT_FOLDER      DATA as for --data, such as folder:DIR/cifar10
# Measured results and the hardware they were measured on: docs/measured.md and docs/bytes.md
set -euo pipefail
set_name=$1
data=$2
out=$3
here=$(realpath "$0")
mkdir -p "$out"
case $data in *:*) data=${data%%:*}:$(realpath -m "${data#*:}") ;; esac # the folder changes below
cd "$out"
run() { echo "\$ ddlabel $*" && ddlabel "$@" --threads 1 --force; }

case $set_name in
  cifar10)
    net=convnet-d3-w32 ipc=10 epochs=1000 grid_epochs=500 seeds=3 small=q8
    teacher="--set lr=0.05 --set momentum=0.9"
    dm="--set steps=1000 --set batch_real=128"
    ;;
  imagenette)
    net=convnet-d4-w32 ipc=5 epochs=500 grid_epochs=200 seeds=5 small=q4-shared
    teacher="--set lr=0.05 --set momentum=0.9 --set batch=128"
    dm="--set steps=500 --set batch_real=32"
    ;;
  size128) # what dense labels cost beside images of 128 px
    run train-teacher --data "$data" --size 128 --arch convnet-d5-w32 --epochs 5 --set lr=0.05 --set momentum=0.9 \
      --set batch=64 -o teacher.ddset
    run distill --data "$data" --size 128 --method random --ipc 5 -o base.ddset
    run augment-labels base.ddset --teacher teacher.ddset --kind dense -o f32.ddset
    for codec in q4-shared klt; do run refine f32.ddset --method recode --codec $codec -o "$codec.ddset"; done
    exec ddlabel inspect f32.ddset q4-shared.ddset klt.ddset
    ;;
  *)
    echo "unknown set '$set_name', expected cifar10, imagenette or size128" >&2
    exit 2
    ;;
esac
label() { run augment-labels base.ddset --teacher teacher.ddset --checkpoint 10 "$@"; }
recode() { run refine dense.ddset --method recode --codec "$1" "${@:2}" -o "$1.ddset"; }
score() { run evaluate "$1.ddset" --data "$data" --arch "$net" --epochs "${epochs_now:-$epochs}" --seeds "$seeds" "${@:2}" -o "$1-scored.ddset"; }

# shellcheck disable=SC2086
{
  run train-teacher --data "$data" --arch "$net" --epochs 20 --keep 5,10,20 $teacher -o teacher.ddset
  run distill --data "$data" --method dm --ipc $ipc --arch "$net" $dm -o base.ddset
}

# LADD: the same images with hard and with dense labels, stored as float32 and in few bits, beside plain images of equal bytes
label --kind dense -o dense.ddset
recode $small
score base
score dense
score $small --equal-bytes

# GIFT: its loss against others under three optimisers
run evaluate $small.ddset --data "$data" --arch "$net" --protocol gift --epochs $grid_epochs --seeds 3 \
  --loss gift,softce,kl --optimizer sgd,adam,adamw -o grid.ddset

# What a byte buys: every label kind and codec of CIFAR-10 with the same, shorter students, as docs/bytes.md and its picture
[ "$set_name" = cifar10 ] || exit 0
brief() { run evaluate "$1.ddset" --data "$data" --arch "$net" --epochs 300 --set lr=0.05 --seeds 3 "${@:2}" -o "brief-$1.ddset"; }
label --kind soft -o soft-f32.ddset
run evaluate soft-f32.ddset --data "$data" --arch "$net" --protocol gift --epochs 300 --seeds 3 \
  --loss gift,softce,kl --optimizer sgd,adam,adamw -o grid-soft.ddset
label --kind soft --codec q4 -o soft-q4.ddset
label --kind fkd --set views=100 --codec f16 -o fkd-f16.ddset
label --kind fkd --set views=100 --codec q4 -o fkd-q4.ddset
run refine fkd-f16.ddset --method recode --codec prune --set keep=0.1 --set values=q4 -o fkd-prune.ddset
cp dense.ddset dense-f32.ddset
for codec in f16 q8 q4 q3 q4-shared delta-view klt lowrank vq topk-min root; do
  run refine dense.ddset --method recode --codec $codec -o "dense-$codec.ddset"
done
run refine dense.ddset --method recode --codec topk-mr --set k=5 -o dense-topk-mr.ddset
run refine dense.ddset --method recode --codec topk-ms --set k=5 -o dense-topk-ms.ddset
brief base
for file in soft-*.ddset fkd-*.ddset dense-*.ddset; do
  [ "$file" = dense-scored.ddset ] || brief "${file%.ddset}"
done
python "$(dirname "$here")/bytes.py" brief-*.ddset
