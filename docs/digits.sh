#!/usr/bin/env bash
# Generators and coresets on the embedded digits: the tables of docs/glad.md and docs/coresets.md.
# Usage: docs/digits.sh glad|coresets OUTPUT_FOLDER      a few minutes each on one core
set -euo pipefail
what=$1
mkdir -p "$2"
cd "$2"
run() { echo "\$ ddlabel $*" && ddlabel "$@" --threads 1 --force; }
score() { run evaluate "$1.ddset" --data digits --arch "$net" --epochs 100 --seeds 3 "${@:2}" -o "$1-scored.ddset"; }

case $what in
  glad)
    net=convnet-d2-w32
    make() { run distill --data digits --arch $net --ipc 5 --set steps=60 --set batch_real=64 "${@:2}" -o "$1.ddset" && score "$1"; }
    make noise --method dm --set init=noise
    make real --method dm
    make linear --method glad --set generator=linear --set lr_w=30
    make digits --method glad --set generator=digits --set lr_f=0.1
    make digits-published --method glad --set generator=digits --set lr_f=10
    make style --method glad --set generator=ddlabel.generators.digits:style_only
    score real --baselines # random images
    ;;
  coresets)
    net=convnet-d1-w16
    run train-teacher --data digits --arch $net --epochs 5 --scores forgetting --set score_arch=$net -o teacher.ddset
    for method in random herding k-center craig glister forgetting least-confidence entropy margin grand el2n; do
      run distill --data digits --method $method --ipc 10 --teacher teacher.ddset -o $method.ddset
      score $method
    done
    for pick in easy middle; do
      run distill --data digits --method el2n --ipc 10 --teacher teacher.ddset --set pick=$pick -o el2n-$pick.ddset
      score el2n-$pick
    done
    ;;
  *)
    echo "unknown table '$what', expected glad or coresets" >&2
    exit 2
    ;;
esac
