#!/usr/bin/env bash
# What images tuned along the way and what labels buy on real CIFAR-10 (the attribution grid), and which form of label buys
# most per byte. With a ConvNet small enough for two cores.
# Usage: docs/privileged.sh DATA OUTPUT_FOLDER [grid|forms|together]      DATA as for --data, such as cifar10:DIR or folder:DIR/cifar10
# Without a third word all parts are run. Commands run one at a time, and none whose output is there already, so a run that
# was stopped goes on where it was. docs/tables_privileged.py writes the tables; it can be run at any time.
set -euo pipefail

# Parameters, each replaced by the environment variable of its name
DATA=${1:-${DATA:?usage: docs/privileged.sh DATA OUTPUT_FOLDER [grid|forms|together]}}
OUT=${2:-${OUT:?usage: docs/privileged.sh DATA OUTPUT_FOLDER [grid|forms|together]}}
PART=${3:-${PART:-all}}
WIDTH=${WIDTH:-32}         # of all nets
IMAGES=${IMAGES:-10000}    # training images that are used ...
TOTAL=${TOTAL:-50000}      # ... of so many that the data have
IPC=${IPC:-10}             # images per class
SEEDS=${SEEDS:-3}          # students of every row
EPOCHS=${EPOCHS:-150}      # of a student, protocol dc (no augmentation); published: 300
MTT_STEPS=${MTT_STEPS:-200} # of learning by trajectories; published: 5000
STEPS=${STEPS:-60}         # of learning labels, or labels and images, each with a new net; published: 1000
OUTER=${OUTER:-10}         # loops of a step
INNER=${INNER:-2}          # epochs the net trains between loops; published: 50
BATCH=${BATCH:-64}         # real images per class and loop; published: 256
LR_IMAGES=${LR_IMAGES:-1}  # published: 0.1
LAMBDA=${LAMBDA:-0.5}      # lambda_reg of the grid, as published for ipc 10
STRONG=${STRONG:-50}       # lambda_reg of the recommended labels, in the grid and in the search
TEACHER_EPOCHS=${TEACHER_EPOCHS:-20}
CORESETS=${CORESETS:-herding k-center forgetting}
NET=${NET:-convnet-d3-w$WIDTH}
THREADS=${THREADS:-1}
FORM_CORESET=${FORM_CORESET:-herding}  # whose images, frozen, the forms are searched on
FORM_SEEDS=${FORM_SEEDS:-$SEEDS}
BEST=${BEST:-3}            # forms that are scored again, by students that had no part in the choice
CONFIRM_SEED=${CONFIRM_SEED:-100}

here=$(realpath "$(dirname "$0")")
mkdir -p "$OUT"
case $DATA in *:*) DATA=${DATA%%:*}:$(realpath -m "${DATA#*:}") ;; esac # the folder changes below
cd "$OUT"
validation=$(awk "BEGIN { print 1 - $IMAGES / $TOTAL }")
git -C "$here" describe --always --dirty >>commits.txt 2>/dev/null || ddlabel version >>commits.txt

run() { # OUTPUT COMMAND...: nothing when the output is there; a state left by a stopped run is continued
  local output=$1 resume=()
  shift
  [ ! -f "$output.ddset" ] || return 0
  [ ! -f "$output.ddset.partial" ] || resume=(--resume)
  echo "\$ ddlabel $* -o $output.ddset"
  ddlabel "$@" --threads "$THREADS" "${resume[@]}" -o "$output.ddset"
}
choose() { run "$1" distill --data "$DATA" --validation "$validation" --method "$1" --ipc "$IPC" --teacher teacher.ddset; }
assign() { run "$2" augment-labels "$1.ddset" --teacher teacher.ddset "${@:3}"; }
learn() { # IMAGES OUTPUT OPTIONS...
  run "$2" refine "$1.ddset" --method dcpi --matcher dc --data "$DATA" --arch "$NET" --set steps="$STEPS" --set outer="$OUTER" \
    --set inner="$INNER" --set batch_real="$BATCH" "${@:3}"
}
score() { # BUNDLE OUTPUT LABELS OPTIONS...
  run "$2" evaluate "$1.ddset" --data "$DATA" --arch "$NET" --protocol dc --epochs "$EPOCHS" --labels "$3" "${@:4}"
}

prepare() {
  run teacher train-teacher --data "$DATA" --validation "$validation" --arch "$NET" --epochs "$TEACHER_EPOCHS" \
    --keep "1,$TEACHER_EPOCHS" --set lr=0.02 --set momentum=0.9 --scores forgetting --set score_arch="$NET" \
    --set score_nets=1 --set score_epoch=$((TEACHER_EPOCHS > 10 ? 10 : TEACHER_EPOCHS))
  for coreset in $CORESETS; do choose "$coreset"; done
}

# {frozen, tuned} x {none, noise, assigned-weak, assigned-converged, assigned-strong, learned}. All labels of one column of images are of the
# very same images; "none" is the row without labels that every evaluation of labels brings, "tuned" are the images of the run
# that learns the labels along with them.
grid() {
  for coreset in $CORESETS; do
    learn "$coreset" "$coreset-frozen-learned" --codec f16 --set lambda_reg="$LAMBDA"
    learn "$coreset" "$coreset-tuned-learned" --codec f16 --set lambda_reg="$LAMBDA" --set tune_images=true \
      --set lr_images="$LR_IMAGES"
    for images in frozen tuned; do
      base=$coreset
      [ $images = frozen ] || base=$coreset-tuned-learned
      label() { assign "$base" "$coreset-$images-$1" --kind feature --codec f16 --set lambda_reg="$LAMBDA" "${@:2}"; }
      label noise --set source=noise
      label assigned-weak --checkpoint 1
      label assigned-converged --checkpoint last
      for labels in learned noise assigned-weak assigned-converged; do
        more=()
        [ $labels != learned ] || more=(--equal-bytes --teacher teacher.ddset)
        score "$coreset-$images-$labels" "$coreset-$images-$labels-scored" feature --seeds "$SEEDS" "${more[@]}"
      done
      score "$coreset-$images-assigned-converged" "$coreset-$images-assigned-strong-scored" feature --seeds "$SEEDS" \
        --set lambda_reg="$STRONG"
    done
    tables
  done
}

try_form() { # NAME BUNDLE LABELS OPTIONS...: one row of the search
  printf '%s\t%s\n' "$1" "${*:2}" >>forms.tmp
  score "$2" "form-$1-scored" "$3" --seeds "$FORM_SEEDS" "${@:4}"
}

# Which kind, layer, weight, norm and codec of labels buys most per byte. Labels of the same images, by the same net.
forms() {
  local base=$FORM_CORESET form
  assign "$base" "$base-soft" --kind soft --codec f16
  try_form soft "$base-soft" soft
  for layer in 3 2; do
    assign "$base" "$base-feature$layer" --kind feature --checkpoint last --set layer=$layer
  done
  for form in 3-0.5 3-5 3-20 3-50 3-150; do
    try_form "feature$form" "$base-feature${form%-*}" feature --set lambda_reg="${form#*-}"
  done
  for codec in q3 q4 vq lowrank q8; do
    run "$base-$codec" refine "$base-feature3.ddset" --method recode --labels feature --codec $codec
    try_form "$codec-$STRONG" "$base-$codec" feature --set lambda_reg="$STRONG"
  done
  # Where labels of such a weight come from
  learn "$base" "$base-learned-converged" --teacher teacher.ddset --set init=teacher --set lambda_reg="$STRONG"
  try_form "learned-converged-$STRONG" "$base-learned-converged" feature
  assign "$base" "$base-weak" --kind feature --checkpoint 1
  try_form "weak-$STRONG" "$base-weak" feature --set lambda_reg="$STRONG"
  learn "$base" "$base-learned-weak" --set lambda_reg="$STRONG"
  try_form "learned-weak-$STRONG" "$base-learned-weak" feature
  assign "$base" "$base-noise" --kind feature --set source=noise
  try_form "noise-$STRONG" "$base-noise" feature --set lambda_reg="$STRONG"
  for form in spatial channel; do
    assign "$base" "$base-$form" --kind attention --checkpoint last --set attention=$form
    try_form "$form-$STRONG" "$base-$form" attention --set lambda_reg="$STRONG"
  done
  try_form "cosine-$STRONG" "$base-feature3" feature --set metric=cosine --set lambda_reg="$STRONG"
  try_form "feature2-$STRONG" "$base-feature2" feature --set lambda_reg="$STRONG"
  try_form "zscore-5" "$base-feature3" feature --set norm=zscore --set lambda_reg=5
  try_form "l2-$STRONG" "$base-feature3" feature --set norm=l2 --set lambda_reg="$STRONG"
  tables
  # The best of so many rows is partly the luckiest one: fresh students decide
  python "$here/tables_privileged.py" . --best "$BEST" | while read -r name; do
    mapfile -t words < <(awk -F'\t' -v name="$name" '$1 == name { print $2 }' forms.tmp | tr ' ' '\n')
    score "${words[0]}" "confirm-$name-scored" "${words[1]}" --seeds "$SEEDS" --seed "$CONFIRM_SEED" "${words[@]:2}" </dev/null
  done
  rm -f forms.tmp
}

# Kinds of labels beside each other and together, under the augmentation that distilled sets are trained with; and images and
# labels learned by matching trajectories
together() {
  local base=$FORM_CORESET
  compare() { # NAME BUNDLE LABELS OPTIONS...
    run "together-$1-scored" evaluate "$2.ddset" --data "$DATA" --arch "$NET" --protocol dm --epochs "$EPOCHS" \
      --seeds "$SEEDS" --labels "$3" "${@:4}"
  }
  assign "$base" "$base-dense" --kind dense --codec q4-shared
  assign "$base" "$base-soft" --kind soft --codec f16
  assign "$base-soft" "$base-soft-q3" --kind feature --checkpoint last --codec q3 --set lambda_reg="$STRONG"
  assign "$base-dense" "$base-dense-q3" --kind feature --checkpoint last --codec q3 --set lambda_reg="$STRONG"
  compare feature "$base-soft-q3" feature --equal-bytes --teacher teacher.ddset
  compare soft "$base-soft" soft
  compare dense "$base-dense" dense
  compare soft+feature "$base-soft-q3" soft+feature
  compare dense+feature "$base-dense-q3" dense+feature
  compare nets "$base-soft-q3" feature --arch "mlp,$NET-bn" --set lambda_reg=5
  run experts train-teacher --data "$DATA" --validation "$validation" --arch "$NET" --experts 4 --epochs 12 --optimizer gsam \
    --set batch=64 --set lr=0.02
  run "$base-float" distill --data "$DATA" --validation "$validation" --method "$base" --ipc "$IPC" --teacher teacher.ddset \
    --pixels float32
  local match=(--method dcpi --matcher mtt --data "$DATA" --teacher experts.ddset --set steps="$MTT_STEPS" --set syn_steps=20
    --set expert_epochs=2 --set max_start_epoch=8 --set batch_syn=25 --set lr_param=log --set lr_lr=0.02 --set syn_lr=0.03
    --set lambda_reg="$LAMBDA")
  run "$base-mtt-tuned" refine "$base-float.ddset" "${match[@]}" --set tune_images=true --set lr_images=1000
  compare mtt-tuned "$base-mtt-tuned" feature
  assign "$base-mtt-tuned" "$base-mtt-strong" --kind feature --checkpoint last --codec q3 --set lambda_reg="$STRONG"
  compare mtt-strong "$base-mtt-strong" feature
  tables
}

tables() { python "$here/tables_privileged.py" .; }

prepare
case $PART in
  grid) grid ;;
  forms) forms ;;
  together) together ;;
  all) grid && forms && together ;;
  *)
    echo "unknown part '$PART', expected grid, forms or together" >&2
    exit 2
    ;;
esac
tables
