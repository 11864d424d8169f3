#!/usr/bin/env bash
# RDED, SRe2L and G-VBSM beside random images on CIFAR-10, at 10 images per class, with nets small enough for two cores.
# Usage: docs/decoupled.sh DATA OUTPUT_FOLDER [PART...]     DATA as for --data, such as cifar10:DIR or folder:DIR/cifar10
# Parts, all by default: squeeze images labels scores more. A bundle that is there already is not made again.
# docs/tables_decoupled.py writes the tables.
set -euo pipefail
data=$1
out=$2
shift 2
here=$(realpath "$(dirname "$0")")
mkdir -p "$out"
case $data in *:*) data=${data%%:*}:$(realpath -m "${data#*:}") ;; esac # the folder changes below
cd "$out"
net=convnet-d3-w32-bn ipc=10 views=300 seeds=3 epochs=300
sets="random rded sre2l g-vbsm"
git -C "$here" describe --always --dirty >commit.txt 2>/dev/null || ddlabel version >commit.txt

run() { echo "\$ ddlabel $*" && ddlabel "$@" --threads 1; }
made() { [ -f "$1.ddset" ]; }
squeeze() { # NAME NET EPOCHS KEPT [OPTIONS]
  made "$1" || run train-teacher --data "$data" --arch "$2" --epochs "$3" --keep "$4" --set lr=0.1 --set momentum=0.9 \
    --set weight_decay=0.0005 --set schedule=cosine --set batch=128 --set augment=crop-flip "${@:5}" -o "$1.ddset"
}
images() { # NAME METHOD [OPTIONS]
  made "$1" || run distill --data "$data" --method "$2" --ipc $ipc "${@:3}" -o "$1.ddset"
}
score() { # NAME LABELS PROTOCOL [OPTIONS]
  made "$1-scored" || run evaluate "$1.ddset" --data "$data" --arch $net --labels "$2" --protocol "$3" --epochs $epochs \
    --seeds $seeds "${@:4}" -o "$1-scored.ddset"
}

part_squeeze() {
  squeeze teacher $net 12 1,2,4,8,12
  squeeze second convnet-d4-w32-bn 12 1,2,4,8,12
  squeeze third wrn-10-1 4 4
}
part_images() {
  images random random
  images rded rded --teacher teacher.ddset
  images sre2l sre2l --teacher teacher.ddset --set steps=1000
  images g-vbsm g-vbsm --teacher teacher.ddset --teacher second.ddset --teacher third.ddset --set steps=1000
  for set in $sets; do run inspect $set.ddset --grid $set.png --force; done
}
part_labels() {
  local set
  for set in $sets; do
    made $set-soft || run augment-labels $set.ddset --teacher teacher.ddset --kind soft --codec f16 -o $set-soft.ddset
    made $set-gift || run refine $set-soft.ddset --method gift -o $set-gift.ddset
    made $set-fkd || run augment-labels $set.ddset --teacher teacher.ddset --kind fkd --set views=$views --codec f16 -o $set-fkd.ddset
  done
  made g-vbsm-three || run augment-labels g-vbsm.ddset --teacher teacher.ddset --teacher second.ddset --teacher third.ddset \
    --kind fkd --set views=$views --codec f16 -o g-vbsm-three.ddset
}
part_scores() { # hard, soft and refined labels by GIFT's protocol; stored views by SRe2L's, in batches of 50
  local set
  for set in $sets; do
    score $set hard gift
    score $set-soft soft gift
    score $set-gift soft gift
    score $set-fkd fkd fkd --loss kl_t2 --set batch=50
  done
  score g-vbsm-three fkd gvbsm
}
part_more() { # a live teacher, other nets, classes that come in steps
  made rded-kd || run evaluate rded-soft.ddset --data "$data" --arch $net --teacher teacher.ddset --epochs $epochs \
    --seeds $seeds -o rded-kd.ddset
  made rded-nets || run evaluate rded-soft.ddset --data "$data" --arch $net,convnet-d3-w32,wrn-10-1,alexnet,lenet,mlp \
    --labels soft --protocol gift --epochs 100 --seeds $seeds --picture rded-nets.svg -o rded-nets.ddset
  made rded-steps || run evaluate rded-gift.ddset --data "$data" --arch $net --labels soft --loss gift,native --protocol gift \
    --incremental 5,10 --orders 2 --epochs 100 --seeds 1 --picture rded-steps.svg -o rded-steps.ddset
}

for part in ${*:-squeeze images labels scores more}; do part_$part; done
if [ $# -eq 0 ]; then python "$here/tables_decoupled.py" .; fi
