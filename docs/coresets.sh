#!/usr/bin/env bash
# Coresets beside random images on CIFAR-10, at 10 images per class, with a ConvNet small enough for two cores.
# Usage: docs/coresets.sh DATA OUTPUT_FOLDER      DATA as for --data, such as cifar10:DIR or folder:DIR/cifar10
# A fifth of the training images is used (--validation 0.8), and features and scores are of a net like the students', where the
# paper has a ResNet-18: the one whose training counted what it forgot. A bundle that is there already is not made again. docs/tables_coresets.py writes the table.
set -euo pipefail
data=$1
out=$2
here=$(realpath "$(dirname "$0")")
mkdir -p "$out"
case $data in *:*) data=${data%%:*}:$(realpath -m "${data#*:}") ;; esac # the folder changes below
cd "$out"
net=convnet-d3-w32 validation=0.8 ipc=10 epochs=120 seeds=3
git -C "$here" describe --always --dirty >commit.txt 2>/dev/null || ddlabel version >commit.txt

run() { echo "\$ ddlabel $*" && ddlabel "$@" --threads 1; }
make() { # NAME METHOD [OPTIONS]: choose images, then score them
  [ -f "$1.ddset" ] || run distill --data "$data" --validation $validation --method "$2" --ipc $ipc --teacher teacher.ddset "${@:3}" -o "$1.ddset"
  score "$1"
}
score() {
  [ -f "$1-scored.ddset" ] || run evaluate "$1.ddset" --data "$data" --arch $net --protocol dc --epochs $epochs --seeds $seeds "${@:2}" -o "$1-scored.ddset"
}

[ -f teacher.ddset ] || run train-teacher --data "$data" --validation $validation --experts 0 --scores forgetting \
  --set score_arch=$net --set score_nets=1 --set score_epoch=10 -o teacher.ddset
[ -f random.ddset ] || run distill --data "$data" --validation $validation --method random --ipc $ipc --teacher teacher.ddset -o random.ddset
score random --baselines
for method in herding k-center forgetting least-confidence entropy margin grand craig glister; do make $method $method; done
for pick in hard middle easy; do make el2n-$pick el2n --set pick=$pick; done
python "$here/tables_coresets.py" .
