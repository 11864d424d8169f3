#!/usr/bin/env bash
# Published distilled sets, imported and scored: the table of docs/measured.md.
# Usage: docs/foreign.sh FOREIGN CIFAR10 OUTPUT_FOLDER
#   FOREIGN holds the folders dc-cifar10-ipc10, mtt-cifar10-ipc10 and pad-mnist-ipc10 as their authors' code wrote them;
#   CIFAR10 is what --data takes, such as folder:/data/cifar10.
set -euo pipefail
foreign=$(realpath "$1")
data=$2
mkdir -p "$3"
cd "$3"
run() { echo "\$ ddlabel $*" && ddlabel "$@" --force; }
score() { run evaluate "$1.ddset" --data "$data" --threads 1 "${@:2}" -o "$1-$tag.ddset"; }

run import "$foreign"/dc-cifar10-ipc10/res_*.pt --data "$data" --space normalised --constants cifar10 -o dc.ddset
run import "$foreign/mtt-cifar10-ipc10/images_0.pt" --data "$data" --space zca --constants cifar10 -o mtt-0.ddset
run import "$foreign/mtt-cifar10-ipc10/images_100.pt" --data "$data" --space zca --constants cifar10 -o mtt-100.ddset
run import "$foreign/pad-mnist-ipc10/images_zca_10.pt" --name mnist --classes 0,1,2,3,4,5,6,7,8,9 --mirror no \
  --constants mnist -o pad.ddset
for set in dc mtt-0 mtt-100 pad; do run inspect "$set.ddset" --grid "$set.png"; done
tag=dc score dc --arch convnet-d3-w128 --protocol dc --seeds 2 --epochs 300
for set in mtt-0 mtt-100; do tag=mtt score $set --arch convnet-d3-w64 --protocol mtt --seeds 1 --set lr=0.03; done
