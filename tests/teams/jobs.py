"""Run as one of several processes: stages done together, and again by the first one alone; prints whose bits differ.

Usage: jobs.py DATA TEACHER BASE NAME...
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from ddlabel.bundle import Bundle
from ddlabel.config import AugmentLabelsConfig, DistillConfig, EvaluateConfig, TrainTeacherConfig
from ddlabel.errors import UsageError
from ddlabel.stages import _labelling, augment_labels, distill, evaluate, train_teacher
from ddlabel.team import ALONE, joined

Job = Callable[..., Bundle]
"""Of a team, and of a progress where there is one."""
NET, NORMED = "convnet-d1-w8", "convnet-d1-w8-bn"
SCORING = {"score_nets": 3, "score_epoch": 1, "score_arch": NET}
CORESETS = ("herding", "k-center", "least-confidence", "entropy", "margin", "el2n", "grand", "glister", "craig")


class Jobs:
    """Every stage that processes share, on tiny data."""

    def __init__(self, data: str, teacher: str, base: str, seed: int = 0) -> None:
        self._own: dict[str, Any] = {"data": data, "threads": 1, "seed": seed}
        self._teacher, self._base = Bundle.open(teacher), Bundle.open(base)

    def train(self, settings: dict[str, Any] | None = None, **options: Any) -> Job:
        """Experts of one epoch."""
        config = TrainTeacherConfig(**self._own, **{"epochs": 1, "arch": NET, **options})
        return lambda team, **more: train_teacher.run(config, settings or {}, team=team, **more)

    def distilled(self, method: str, *teachers: Bundle, arch: str | None = None, **settings: Any) -> Job:
        """Three images of each class: two processes have unequal shares of some batches."""
        config = DistillConfig(**self._own, method=method, ipc=3, arch=arch, self_test=0)
        return lambda team, **more: distill.run(config, settings, teachers=teachers, team=team, **more)

    def labels(self, kind: str, **options: Any) -> Job:
        """Three views at once."""
        config = AugmentLabelsConfig(
            kind=kind, threads=1, seed=self._own["seed"], self_test=0, checkpoint="last", **options
        )
        return lambda team, **more: augment_labels.run(
            self._base, config, {}, teachers=[self._teacher], team=team, **more
        )

    def scored(self, **options: Any) -> Job:
        """Three students of two epochs."""
        config = EvaluateConfig(**self._own, **{"arch": (NET,), "seeds": 3, "epochs": 2, **options})
        return lambda team, **more: evaluate.run(self._base, config, {}, team=team, **more)

    def named(self, name: str) -> Iterator[tuple[str, Job]]:
        """The jobs of a name."""
        if name == "experts":
            yield name, self.train(SCORING, experts=3, scores="el2n")
        elif name == "scores":
            yield name, self.train(SCORING, experts=0, scores="forgetting", arch=None)
            yield "one expert", self.train(experts=1)
        elif name == "matching":
            yield "dm", self.distilled("dm", steps=2)
        elif name == "gradients":
            for method in ("dc", "dsa"):
                yield method, self.distilled(method, steps=2, outer=2, inner=1)
            yield "dc, batch norm", self.distilled("dc", arch=NORMED, steps=2, outer=2, inner=1)
            yield "glad", self.distilled("glad", steps=2, generator="linear")
        elif name == "selection":
            yield name, self.distilled("random")
        elif name == "coresets":
            for method in CORESETS:
                yield method, self.distilled(method, self._teacher)
            scored = self.train(SCORING, scores="forgetting")(ALONE)
            yield "forgetting", self.distilled("forgetting", scored)
        elif name == "recovery":
            net = self.train(arch=NORMED)(ALONE)
            yield "sre2l", self.distilled("sre2l", net, steps=2, batch=5)
        elif name == "more recovery":
            net = self.train(arch=NORMED)(ALONE)
            yield "sre2l by class", self.distilled("sre2l", net, steps=2, batching="class", bn_stats="data")
            yield "rded", self.distilled("rded", net, crops=2)
            yield "g-vbsm", self.distilled("g-vbsm", net, self._teacher, steps=2, batch=5)
        elif name == "labels":
            yield "dense", self.labels("dense", grid=3, ratio="1/2")
        elif name == "evaluation":
            yield name, self.scored()
        elif name == "mosaics":
            yield name, self.distilled("rded", self.train(arch=NORMED)(ALONE), crops=2)
        elif name == "selections":
            yield name, self.distilled("herding", self._teacher)
        elif name == "more labels":
            for kind in ("soft", "feature", "fkd", "attention"):
                yield kind, self.labels(kind)
        else:
            raise ValueError(name)

    def refused(self) -> Iterator[tuple[str, Job]]:
        """What processes cannot share."""
        net = self.train(arch=NORMED)(ALONE)
        experts = self.train(experts=1, epochs=2)(ALONE)
        yield "dm, batch norm", self.distilled("dm", arch=NORMED, steps=1)
        yield "g-vbsm, compat", self.distilled("g-vbsm", net, steps=1, compat=True)
        yield "mtt", self.distilled("mtt", experts, steps=1, syn_steps=1, expert_epochs=1, max_start_epoch=1)


def main(data: str, teacher: str, base: str, *names: str) -> None:
    """One line for each job: its name and what became of it."""
    jobs = Jobs(data, teacher, base)
    _labelling.VIEWS_AT_ONCE = 3
    with joined() as team:
        for name in names:
            if name == "refused":
                for title, job in jobs.refused():
                    with contextlib.suppress(UsageError):
                        job(team)
                        print(f"{title}: not refused")
                continue
            for title, job in jobs.named(name):
                together = job(team)
                if team.leads:
                    same = together.content == job(ALONE).content
                    print(f"{title}: {'same' if same else 'other bits'}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
