# A sweep over methods x images per class x seeds: one bundle per step, so that make knows what is missing.
#
#   make -f docs/sweep.mk -j2 OUT=sweep DATA=digits METHODS="random dm" IPCS="1 5" SEEDS="0 1"
#
# Several machines may share OUT: give each its own SEEDS, METHODS or IPCS. A job that a signal, a full disk, too little
# memory or another run on the same bundle stopped is tried again after PAUSE seconds, and goes on where it was; one that
# is wrong (exit 2 to 5) is not. `make -k` lets the others finish. Options of one method: SET_dm="--set steps=100".
DATA ?= digits
ARCH ?= convnet-d2-w32
METHODS ?= random dm
IPCS ?= 1 5
SEEDS ?= 0 1
EPOCHS ?= 300
STUDENTS ?= 3
TEACHER ?= --epochs 20
TRIES ?= 3
PAUSE ?= 10
OUT ?= sweep
DDLABEL ?= ddlabel
SET_dm ?= --set steps=150

# $(call job,COMMAND): run it until there is its bundle, at most TRIES times; what another machine makes counts as well,
# and waiting for that is no try. What is older than a bundle it is made of is made anew.
job = for old in $^; do test $@ -ot $$old && rm -f $@; done; try=1; \
	while ! test -e $@; do \
	  said=$$($(1) --quiet --resume -o $@ 2>&1); code=$$?; test -z "$$said" || echo "$$said" >&2; \
	  case $$code in 0) exit 0;; 2|3|4|5|7) test -e $@ && break; exit $$code;; esac; \
	  case $$said in *"another run"*) ;; *) echo "try $$try of $@ ended with exit $$code" >&2; try=$$((try + 1));; esac; \
	  test $$try -le $(TRIES) || exit $$code; sleep $(PAUSE); \
	done

runs := $(foreach method,$(METHODS),$(foreach ipc,$(IPCS),$(foreach seed,$(SEEDS),$(method)-ipc$(ipc)-seed$(seed))))
scored := $(runs:%=$(OUT)/%-scored.ddset)

.SECONDARY:
.PHONY: all
all: $(OUT)/report.html

$(OUT)/report.html: $(scored)
	$(DDLABEL) report $^ --force -o $@

$(OUT)/teacher.ddset: | $(OUT)
	$(call job,$(DDLABEL) train-teacher --data $(DATA) --arch $(ARCH) $(TEACHER))

$(OUT):
	mkdir -p $@

define run
$(OUT)/$(1)-ipc$(2)-seed$(3).ddset: | $(OUT)
	$$(call job,$(DDLABEL) distill --data $(DATA) --arch $(ARCH) --method $(1) --ipc $(2) --seed $(3) $(SET_$(1)))
endef
$(foreach method,$(METHODS),$(foreach ipc,$(IPCS),$(foreach seed,$(SEEDS),$(eval $(call run,$(method),$(ipc),$(seed))))))

$(runs:%=$(OUT)/%-soft.ddset): $(OUT)/%-soft.ddset: $(OUT)/%.ddset $(OUT)/teacher.ddset
	$(call job,$(DDLABEL) augment-labels $< --teacher $(OUT)/teacher.ddset --kind soft --codec q8)

$(scored): $(OUT)/%-scored.ddset: $(OUT)/%-soft.ddset
	$(call job,$(DDLABEL) evaluate $< --data $(DATA) --arch $(ARCH) --epochs $(EPOCHS) --seeds $(STUDENTS))
