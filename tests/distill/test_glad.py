"""GLaD: the two-stage gradient against one backward pass, and each host against itself on pixels."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from ddlabel import _plugins, seeding
from ddlabel.distill import glad
from ddlabel.distill._latents import Latents, to_space
from ddlabel.distill._method import Problem, State, run
from ddlabel.distill.glad import METHOD, Glad
from ddlabel.errors import DivergedError, UsageError
from ddlabel.generators._generator import Loaded
from ddlabel.generators.linear import LinearGenerator
from ddlabel.options import as_dict, build, build_many
from ddlabel.space import Space
from ddlabel.zca import fit_zca

MakeProblem = Callable[..., Problem]
UNITS = Space("normalised", (0.0,) * 3, (1.0,) * 3)
"""Model-input space is [0, 1] itself, so that a decoder can be the identity."""
OPTIMISING = [
    name
    for name in _plugins.names("distill")
    if name != "glad"
    and "lr_images" in {field.name for field in dataclasses.fields(_plugins.load("distill", name, "METHOD"))}
    and "backbones" not in _plugins.load("distill", name, "METHOD").needs
]
QUICK: Mapping[str, Any] = {
    "steps": 2, "batch_real": 5, "lr_images": 0.05, "augment": "none", "syn_steps": 3, "max_start_epoch": 3,
    "current_max_start_epoch": 2, "interval": 2, "batch_syn": 5, "outer": 1, "inner": 1, "expert_epochs": 2,
}  # fmt: skip


class Identity:
    """The image is the latent."""

    resolution, num_classes, output_range = 8, 3, (0.0, 1.0)

    def init_latents(self, labels: Tensor, generator: Generator) -> dict[str, Tensor]:
        return {"image": torch.rand(len(labels), 3, 8, 8, generator=generator)}

    def decode(self, latents: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return latents["image"]


class Watched(Identity):
    """Two latents; each image shows its label, and what the generator was asked is written down."""

    num_classes = 5
    output_range = (-1.0, 1.0)

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.projected = 0

    def init_latents(self, labels: Tensor, generator: Generator) -> dict[str, Tensor]:
        values = torch.rand(len(labels), 3, 8, 8, generator=generator)
        return {"f": values, "w": torch.rand(len(labels), 2, generator=generator) + labels[:, None]}

    def decode(self, latents: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        self.asked.append(labels.tolist())
        assert latents["w"].floor().long()[:, 0].tolist() == labels.tolist(), "labels of other samples"
        return torch.tanh(latents["f"] * latents["w"].mean(dim=1)[:, None, None, None])

    def project_(self, latents: dict[str, Tensor]) -> None:
        self.projected += 1
        latents["f"].clamp_(-0.5, 0.5)


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Gives glad a generator object under any name."""

    def put(generator: object, digest: bytes = bytes(32)) -> None:
        def load(text: str, **_data: int) -> Loaded:
            return Loaded(generator, text, digest, "weights")  # type: ignore[arg-type]

        monkeypatch.setattr(glad, "load_generator", load)

    return put


def make(host: str, **options: Any) -> Glad:
    cls = METHOD.for_settings({"host": host})
    own = {field.name for field in dataclasses.fields(cls)}
    return cls(**{**{name: value for name, value in QUICK.items() if name in own}, **options})


class TestGradient:
    """d loss / d latents."""

    @pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
    @pytest.mark.parametrize("kind", ["normalised", "zca"])
    def test_two_stages_in_chunks_equal_one_backward_pass(self, kind: str, chunk: int) -> None:
        """Float64, a loss that couples all images, a range of [-1, 1], both spaces."""
        source = torch.Generator().manual_seed(0)
        generator = LinearGenerator(channels=3, resolution=8, num_classes=4)
        generator.output_range = (-1.0, 2.0)
        space = Space("normalised", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
        if kind == "zca":
            pixels = torch.randint(0, 256, (40, 3, 8, 8), generator=source).to(torch.uint8)
            space = dataclasses.replace(space, kind="zca", zca=fit_zca(pixels))
        classes = torch.tensor([2, 0, 3])
        canvas = Latents(Loaded(generator, "toy", b"", "weights"), space, classes=classes, chunk=chunk, rates={})
        labels = torch.tensor([0, 0, 0, 1, 1, 2, 2])
        w = torch.randn(7, 64, generator=source, dtype=torch.float64)
        mixing = torch.randn(192, 20, generator=source, dtype=torch.float64)

        def loss_of(images: Tensor) -> Tensor:
            return ((images.flatten(1) @ mixing).tanh().mean(dim=0) - 0.1).square().sum()

        whole = w.clone().requires_grad_(True)
        direct = loss_of(to_space((generator.decode({"w": whole}, classes[labels]) + 1) / 3, space))
        (expected,) = torch.autograd.grad(direct, whole)
        images = canvas.render({"latent.w": w, "latent_labels": labels}).requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss_of(images), images)
        pulled = canvas.pull_back({"w": w}, labels, gradient)["w"]

        assert torch.float64 == pulled.dtype
        torch.testing.assert_close(pulled, expected, rtol=1e-12, atol=1e-15)

    def test_values_enter_the_space_as_pixels_do(self) -> None:
        """The float path agrees with that of 8-bit images, for both kinds of space."""
        pixels = torch.randint(0, 256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        plain = Space("normalised", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
        for space in (plain, dataclasses.replace(plain, kind="zca", zca=fit_zca(pixels))):
            torch.testing.assert_close(to_space(pixels / 255, space), space.encode(pixels), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("host", OPTIMISING)
class TestHosts:
    """Every optimising method."""

    def test_an_identity_decoder_is_the_pixel_method_bit_for_bit(
        self, host: str, make_problem: MakeProblem, plug
    ) -> None:
        """From the same images, with the same draws: images and momentum."""
        plug(Identity())
        problem = make_problem(space=UNITS)
        around = make(host)
        start = around.prepare(problem, seeding.generator(0, "start"))
        images = start["latent.image"]
        canvas_free = {
            name: value for name, value in start.items() if not name.startswith(("latent", "velocity", "gen"))
        }
        state: State = {**canvas_free, "images": images, "velocity": torch.zeros_like(images)}
        on_latents = run(around, problem, start=(0, start)).images
        on_pixels = run(around.method, problem, start=(0, state)).images
        assert on_latents is not None
        assert on_pixels is not None

        assert torch.equal(on_pixels, on_latents)
        assert not torch.equal(on_pixels, images)

    def test_a_rate_of_zero_leaves_the_images_as_they_began(self, host: str, make_problem: MakeProblem) -> None:
        """And another one moves them."""
        problem, states = make_problem(), {}
        for rate in (0.5, 0.0):
            method = make(host, lr_w=rate)
            images = run(
                method, problem, on_checkpoint=lambda done, state, rate=rate: states.update({(rate, done): state})
            ).images
        start = method.prepare(problem, seeding.generator(0, "distill", "prepare"))

        assert torch.equal(start["latent.w"], states[0.0, 2]["latent.w"])
        assert float((start["latent.w"] - states[0.5, 2]["latent.w"]).abs().max()) > 1e-5
        torch.testing.assert_close(images, method._on_latents(problem).canvas.render(start))


class TestCanvas:
    """What a generator is asked, and what it may do."""

    def test_decode_sees_only_labels_of_its_own_samples(self, make_problem: MakeProblem, plug) -> None:
        """In chunks across classes, the last one shorter, mapped to the generator's classes."""
        generator = Watched()
        plug(generator)
        method = make("dm", class_ids=(4, 0, 2), gen_batch=5, lr_w=0.0, steps=1)
        state = method.prepare(make_problem(), seeding.generator(0, "start"))
        generator.asked.clear()
        run(method, make_problem(), start=(0, state))
        passes = [[4, 4, 4, 4, 0], [0, 0, 0, 2, 2], [2, 2]]

        assert passes * 3 == [asked for asked in generator.asked if asked in passes]
        assert {5, 2, 3, 1} >= {len(asked) for asked in generator.asked}

    def test_the_generators_constraint_holds_after_every_step(self, make_problem: MakeProblem, plug) -> None:
        """Called once a step, on latents that have moved."""
        generator = Watched()
        plug(generator)
        states: list[State] = []
        method = make("dm", class_ids=(4, 0, 2), lr_w=0.0)
        problem = make_problem()
        start = method.prepare(problem, seeding.generator(0, "start"))
        generator.projected = 0
        run(method, problem, start=(0, start), on_checkpoint=lambda _done, state: states.append(state))

        assert 2 == generator.projected
        assert all(float(state["latent.f"].abs().max()) <= 0.5 for state in states)

    def test_every_latent_steps_at_its_own_rate(self, make_problem: MakeProblem, plug) -> None:
        """After one step from rest: exactly its rate times its gradient; a rate of zero leaves it alone."""
        plug(Watched())
        problem = make_problem()
        method = make("dm", class_ids=(4, 0, 2), steps=1, lr_f=0.003, lr_w=0.0)
        before = method.prepare(problem, seeding.generator(0, "start"))
        after, _ = method.step(problem, before, 0, seeding.generator(0, "step"))
        moved = (before["latent.f"] - 0.003 * after["velocity.f"]).clamp(-0.5, 0.5)

        assert torch.equal(before["latent.w"], after["latent.w"])
        assert float(after["velocity.w"].abs().max()) > 0
        assert torch.equal(moved, after["latent.f"])

    def test_images_do_not_depend_on_the_chunks(self, make_problem: MakeProblem) -> None:
        """But for rounding."""
        one, many = (run(make("dm", gen_batch=size), make_problem()).images for size in (1, 100))
        assert one is not None
        assert many is not None

        torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-5)

    def test_generated_images_can_be_whitened(self, make_problem: MakeProblem) -> None:
        """The same latents in a ZCA space are the whitened images of the same values."""
        plain = make_problem()
        whitened = make_problem(space=dataclasses.replace(plain.space, kind="zca", zca=fit_zca(plain.pixels)))
        method = make("dm", lr_w=0.0, steps=1)
        units, other = (problem.space.decode(run(method, problem).images) for problem in (plain, whitened))  # type: ignore[arg-type]

        torch.testing.assert_close(units, other, rtol=1e-3, atol=1e-4)
        assert 0 < float(units.min()) < float(units.max()) < 1

    @pytest.mark.parametrize(
        ("member", "value", "message"),
        [
            ("decode", lambda latents, labels: latents["f"][:, :, :4], r"'decode' gave shape \[\d+, 3, 4, 8\]"),
            ("decode", lambda latents, labels: latents["f"][:, :1], "'decode' gave 1 channels, expected 3"),
            ("decode", lambda latents, labels: latents["f"].detach(), "'decode' is not differentiable"),
            ("decode", lambda latents, labels: sys.exit(0), "'decode' raised SystemExit: 0"),
            ("project_", lambda latents: latents.update(f=latents["f"][:1]), "'project_' made latent 'f' torch.float"),
            ("project_", lambda latents: 1 / 0, "'project_' raised ZeroDivisionError"),
        ],
        ids=["other shape", "other channels", "no gradient", "exit", "projected shape", "fault in the projection"],
    )
    def test_a_rule_broken_during_the_steps_is_named(
        self, make_problem: MakeProblem, plug, member: str, value: Callable[..., Any], message: str
    ) -> None:
        """By a generator that passed the probe."""
        generator = Watched()
        plug(generator)
        method, problem = make("dm", class_ids=(4, 0, 2)), make_problem()
        start = method.prepare(problem, seeding.generator(0, "start"))
        setattr(generator, member, value)

        with pytest.raises(UsageError, match=f"generator 'linear': {message}"):
            run(method, problem, start=(0, start))

    def test_latents_that_diverged_are_not_projected(self, make_problem: MakeProblem, plug) -> None:
        """The step size is to blame, not the constraint."""
        plug(Watched())
        with pytest.raises(DivergedError, match="latent 'f' became non-finite at step 1 of 2; lower --set lr_f"):
            run(make("dm", class_ids=(4, 0, 2), lr_f=1e300), make_problem())

    def test_a_state_of_another_generator_is_refused(self, make_problem: MakeProblem, plug) -> None:
        """Both named by their digests."""
        plug(Watched(), bytes([1]) * 32)
        method = make("dm", class_ids=(4, 0, 2), lr_w=0.0)
        state = method.prepare(make_problem(), seeding.generator(0, "start"))
        plug(Watched(), bytes([2]) * 32)

        with pytest.raises(UsageError, match=r"a generator of digest 010101010101, 'linear' has 020202020202"):
            run(make("dm", class_ids=(4, 0, 2)), make_problem(), start=(1, state))

    def test_a_latent_that_diverges_names_its_own_step_size(self, make_problem: MakeProblem) -> None:
        """Not that of the images."""
        with pytest.raises(DivergedError, match=r"latent 'w' .* step \d+ of 2; lower --set lr_w \(now 1e\+42\)"):
            run(make("dm", lr_w=1e42), make_problem())


class TestRates:
    """Given, else the generator's, else published for the host."""

    @pytest.mark.parametrize(
        ("host", "expected"),
        [("dm", {"f": 10.0, "w": 0.01}), ("dc", {"f": 1.0, "w": 0.001}), ("mtt", {"f": 1e4, "w": 10.0})],
    )
    def test_published_rates(self, host: str, expected: dict[str, float]) -> None:
        """Table of the method's published settings."""
        if host not in OPTIMISING:
            pytest.skip(f"no method {host}")
        loaded = Loaded(Watched(), "x", b"", "weights")

        assert expected == make(host)._rates(loaded, ("f", "w"))

    def test_order(self, make_problem: MakeProblem, plug) -> None:
        """And what was used is recorded, in place of the host's own rate."""
        generator = Watched()
        generator.default_lrs = lambda: {"f": 0.5, "w": 0.25}  # type: ignore[attr-defined]
        plug(generator)
        method = make("dm", class_ids=(4, 0, 2), steps=1, lr_w=0.0)

        assert {"lr_f": 0.5, "lr_w": 0.0} == dict(run(method, make_problem()).metrics)

    def test_a_rate_of_a_latent_that_there_is_not_is_refused(self, make_problem: MakeProblem, plug) -> None:
        """Given or the generator's own: naming the latents that there are."""
        with pytest.raises(UsageError, match=r"'lr_f' is 3.0, generator 'linear' has no latent 'f' \(it has: w\)"):
            run(make("dm", lr_f=3.0), make_problem())
        generator = Watched()
        generator.default_lrs = lambda: {"z": 0.5}  # type: ignore[attr-defined]
        plug(generator)
        with pytest.raises(UsageError, match="'default_lrs' names a latent 'z', it has: f, w"):
            run(make("dm", class_ids=(4, 0, 2)), make_problem())

    def test_latents_of_other_names_take_the_hosts_rate(self, make_problem: MakeProblem, plug) -> None:
        """And it is recorded."""
        plug(Identity())

        assert {"lr_images": 0.05} == dict(run(make("dm"), make_problem()).metrics)


class TestOptions:
    """The host's beside its own, in one record."""

    def test_published_settings_replace_the_hosts_defaults(self) -> None:
        """What is typed wins over both; there is no `init`."""
        method, typed = (build(METHOD, settings) for settings in ({}, {"steps": "7"}))

        assert 1000 == method.method.steps == as_dict(method)["steps"]  # type: ignore[attr-defined]
        assert 7 == typed.method.steps  # type: ignore[attr-defined]
        assert "noise" == method.method.init  # type: ignore[attr-defined]
        assert "init" not in as_dict(method)

    @pytest.mark.parametrize("host", OPTIMISING)
    def test_every_host_gets_its_own_options(self, host: str) -> None:
        """All but those replaced; needs are the host's."""
        cls = METHOD.for_settings({"host": host})
        own = {field.name for field in dataclasses.fields(_plugins.load("distill", host, "METHOD"))}

        assert own - {"init"} == set(as_dict(cls())) - {field.name for field in dataclasses.fields(Glad)}
        assert _plugins.load("distill", host, "METHOD").needs == cls.needs
        assert cls is METHOD.for_settings({"host": host})

    def test_all_mistakes_are_told_at_once(self) -> None:
        """Those of the host and of glad."""
        settings = {"host": "dm", "step": "5", "momentum": "2", "gen_batch": "0"}
        with pytest.raises(UsageError) as caught:
            build_many([METHOD.for_settings(settings)], settings)

        assert "unknown option 'step'; did you mean 'steps'?" in str(caught.value)
        assert "'momentum' is 2.0" in str(caught.value)
        assert "'gen_batch' is 0" in str(caught.value)

    @pytest.mark.parametrize(
        ("host", "message"),
        [
            ("random", "which selects real images"),
            ("sre2l", "which recovers pixels from trained nets"),
            ("glad", "expected another method"),
            ("dn", "unknown method 'dn'; did you mean 'dm'"),
        ],
    )
    def test_hosts_that_cannot_be(self, host: str, message: str) -> None:
        """Refused by name."""
        with pytest.raises(UsageError, match=message):
            METHOD.for_settings({"host": host})

    def test_a_class_is_for_one_host(self) -> None:
        """In Python, other hosts have classes of their own."""
        with pytest.raises(UsageError, match="these are the options of 'dm'"):
            build(METHOD, {"host": "dc"})


class TestStage:
    """`ddlabel distill --method glad`."""

    def test_the_bundle_holds_images_and_who_made_them(self, run_cli, tiny: str, tmp_path: Path) -> None:
        """Options of both, generator and digest in the history; no folder of this machine."""
        source = tmp_path / "mine.py"
        source.write_text(
            "from ddlabel.generators.linear import LinearGenerator\n"
            "def make():\n    return LinearGenerator(channels=3, resolution=8, num_classes=9)\n"
        )
        outcome = distill(
            run_cli, tiny, tmp_path / "g.ddset", f"generator={source}:make", "class_ids=8,1,2,0", "steps=2", "lr_w=0.5"
        )
        assert 0 == outcome.code, outcome.err
        from ddlabel.bundle import Bundle

        entry = Bundle.open(tmp_path / "g.ddset").manifest.history[-1]

        assert {"name": "mine.py:make", "hashed": "weights"}.items() <= entry["config"]["generator"].items()
        assert 64 == len(entry["config"]["generator"]["sha256"])
        assert {"host": "dm", "steps": 2, "class_ids": [8, 1, 2, 0], "generator": "mine.py:make"}.items() <= entry[
            "config"
        ]["options"].items()
        assert 0.5 == entry["metrics"]["lr_w"]
        assert str(tmp_path) not in str(entry)

    def test_a_bundle_is_evaluated_without_the_generator(self, run_cli, tiny: str, tmp_path: Path) -> None:
        """It holds images, and the file of the generator is gone."""
        source = tmp_path / "mine.py"
        source.write_text(
            "from ddlabel.generators.linear import LinearGenerator\n"
            "def make():\n    return LinearGenerator(channels=3, resolution=8, num_classes=4)\n"
        )
        made = distill(run_cli, tiny, tmp_path / "g.ddset", f"generator={source}:make", "steps=1")
        source.unlink()
        scored = run_cli(
            "evaluate", tmp_path / "g.ddset", "--data", tiny, "--arch", "mlp", "--epochs", "2", "--seeds", "1"
        )

        assert (0, 0) == (made.code, scored.code), made.err + scored.err

    def test_generated_digits_teach_a_net(self, run_cli, tmp_path: Path) -> None:
        """Ten steps on both latents of the trained generator: far above images of noise, as `evaluate` scores."""
        common = ("--data", "digits", "--arch", "convnet-d1-w16")
        made = [
            run_cli("distill", *common, "--method", method, "--ipc", "2", *words, "--set", "batch_real=16", "-o", path)
            for method, words, path in (
                ("glad", ("--set", "generator=digits", "--set", "steps=10", "--set", "lr_f=0.1"), tmp_path / "g.ddset"),
                ("dm", ("--set", "init=noise", "--set", "steps=1", "--set", "lr_images=1e-9"), tmp_path / "n.ddset"),
            )
        ]
        score = ("--epochs", "40", "--seeds", "1", "--json")
        scored = [run_cli("evaluate", tmp_path / name, *common, *score) for name in ("g.ddset", "n.ddset")]
        generated, noise = (
            json.loads(outcome.out)["evaluation"]["results"][0]["accuracy"]["mean"] for outcome in scored
        )

        assert [0] * 4 == [outcome.code for outcome in (*made, *scored)]
        assert generated > 0.6
        assert noise < 0.3

    def test_a_bundle_cannot_have_code_run(
        self, run_cli, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Distilling again as its history says takes plugins alone; a file of the recorded name is not touched."""
        from ddlabel.bundle import Bundle
        from ddlabel.stages._baselines import plain_bundle

        monkeypatch.chdir(tmp_path)
        source = tmp_path / "mine.py"
        source.write_text(
            "from ddlabel.generators.linear import LinearGenerator\n"
            "mine = LinearGenerator(channels=3, resolution=8, num_classes=4)\n"
        )
        distill(run_cli, tiny, tmp_path / "g.ddset", "generator=mine.py:mine", "steps=1")
        distill(run_cli, tiny, tmp_path / "p.ddset", "generator=linear", "steps=1")
        source.write_text("raise SystemExit('was run')")
        again = {"ipc": 3, "teachers": [], "on_event": lambda _event: None, "device": "cpu", "threads": 0}

        with pytest.raises(UsageError, match=r"generator 'mine.py:mine' is code outside ddlabel.*--plain FILE"):
            plain_bundle(Bundle.open(tmp_path / "g.ddset"), tiny, **again)
        assert 12 == len(plain_bundle(Bundle.open(tmp_path / "p.ddset"), tiny, **again).tensor("images.pixels"))

    def test_another_seed_gives_other_images(self, run_cli, tiny: str, tmp_path: Path) -> None:
        """The same one the same content."""
        from ddlabel.bundle import Bundle

        contents = []
        for index, seed in enumerate((0, 0, 1)):
            path = tmp_path / f"{index}.ddset"
            run_cli(
                "distill", "--data", tiny, "--method", "glad", "--arch", "convnet-d1-w4", "--ipc", "1", "--seed",
                str(seed), "--set", "steps=1", "-o", path,
            )  # fmt: skip
            contents.append(Bundle.open(path).content)

        assert contents[0] == contents[1] != contents[2]

    def test_other_classes_need_a_mapping(self, run_cli, tiny: str, tmp_path: Path) -> None:
        """Exit 2 with what to type."""
        outcome = run_cli(
            "distill", "--data", tiny, "--method", "glad", "--set", "generator=digits", "-o", tmp_path / "g.ddset"
        )

        assert 2 == outcome.code
        assert "has 10 classes, the data have 4" in outcome.err
        assert "--set class_ids=ID,ID" in outcome.err

    def test_unknown_generators_suggest_the_nearest(self, run_cli, tiny: str, tmp_path: Path) -> None:
        """With the list of all."""
        outcome = distill(run_cli, tiny, tmp_path / "g.ddset", "generator=linaer")

        assert 2 == outcome.code
        assert "unknown generator 'linaer'; did you mean 'linear'? (known: digits, linear)" in outcome.err


def distill(run_cli, data: str, path: Path, *settings: str):
    words = [word for setting in settings for word in ("--set", setting)]
    return run_cli(
        "distill", "--data", data, "--method", "glad", "--arch", "convnet-d1-w8", "--ipc", "2", *words,
        "--set", "batch_real=8", "-o", path,
    )  # fmt: skip
