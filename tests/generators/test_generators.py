"""Every generator of the room against the contract; how a user's own is found; what is refused, by what it lacks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from ddlabel import _plugins, seeding
from ddlabel.data._dataset import load
from ddlabel.errors import UsageError
from ddlabel.generators import digits
from ddlabel.generators._generator import Loaded, load_generator
from ddlabel.generators._probe import choose_classes, probe, rates_of
from ddlabel.nets._net import build

NAMES = _plugins.names("generators")
SHAPE = {"channels": 1, "resolution": 16, "num_classes": 10}
ROOM = Path(digits.__file__).parent
CPU = torch.device("cpu")


def loaded(generator: object) -> Loaded:
    return Loaded(generator, "mine", bytes(32), "source")  # type: ignore[arg-type]


class Plain:
    """Keeps the contract; tests change one thing."""

    resolution, num_classes, output_range = 4, 3, (-1.0, 1.0)

    def init_latents(self, labels: Tensor, generator: Generator) -> dict[str, Any]:
        return {"z": torch.randn(len(labels), 2, 4, 4, generator=generator)}

    def decode(self, latents: Mapping[str, Tensor], labels: Tensor) -> Any:
        return torch.tanh(latents["z"].sum(dim=1, keepdim=True))


def probed(**changes: Any) -> None:
    made = Plain()
    for name, value in changes.items():
        setattr(made, name, value)
    probe(loaded(made), torch.arange(3), (1, 4, 4), CPU)


@pytest.mark.parametrize("name", NAMES)
class TestEveryGenerator:
    """Crossed with all plugins of the room."""

    def test_keeps_the_contract(self, name: str) -> None:
        """The probe that a user's generator has to pass."""
        found = load_generator(name, **SHAPE)
        probe(found, choose_classes(found, None, 10), (1, 16, 16), CPU)

        assert "weights" == found.hashed

    def test_latents_depend_on_the_draws_and_images_are_within_the_range(self, name: str) -> None:
        """Two streams, two sets of images."""
        generator = load_generator(name, **SHAPE).generator
        labels = torch.arange(10)
        first, other = (
            generator.decode(generator.init_latents(labels, seeding.generator(seed, "x")), labels) for seed in (0, 1)
        )
        low, high = generator.output_range

        assert not torch.equal(first, other)
        assert low <= float(first.min()) < float(first.max()) <= high

    def test_the_identity_is_that_of_the_weights(self, name: str) -> None:
        """The same twice; one changed weight changes it."""
        found, again = (load_generator(name, **SHAPE) for _ in range(2))
        other = load_generator(name, **{**SHAPE, "num_classes": 11}) if name == "linear" else None

        assert found.digest == again.digest
        assert 32 == len(found.digest)
        assert other is None or other.digest != found.digest


class TestDigits:
    """The trained one."""

    def test_the_classes_of_its_images_can_be_read(self) -> None:
        """By the nearest mean of the training digits, at least as often as those of the test digits can."""
        made = load_generator("digits", **SHAPE).generator
        real = load("digits", size=16, validation=0.0)
        pixels, classes = real.train.pixels.float() / 255, real.train.labels
        means = torch.stack([pixels[classes == label].mean(dim=0) for label in range(10)])

        def share_read(images: Tensor, labels: Tensor) -> float:
            nearest = (images[:, None] - means).flatten(2).square().sum(dim=2).argmin(dim=1)
            return float((nearest == labels).float().mean())

        wanted = torch.arange(10).repeat_interleave(50)
        images = made.decode(made.init_latents(wanted, seeding.generator(0, "x")), wanted)

        assert share_read(images, wanted) >= share_read(real.test.pixels.float() / 255, real.test.labels)
        assert share_read(images, (wanted + 1) % 10) < 0.05

    def test_images_of_a_class_differ(self) -> None:
        """It has learned more than one image per class."""
        made = load_generator("digits", **SHAPE).generator
        labels = torch.full((50,), 3)
        images = made.decode(made.init_latents(labels, seeding.generator(0, "x")), labels)

        assert 0.05 < float(images.std(dim=0).mean())

    def test_style_alone_starts_from_the_same_images(self) -> None:
        """`f` begins as what `w` makes of it."""
        both = load_generator("digits", **SHAPE)
        alone = load_generator("ddlabel.generators.digits:style_only", **SHAPE)
        labels = torch.arange(10)
        latents = [each.generator.init_latents(labels, seeding.generator(0, "x")) for each in (both, alone)]
        images = [each.generator.decode(one, labels) for each, one in zip((both, alone), latents, strict=True)]

        assert {"w", "f"} == set(latents[0])
        assert {"w"} == set(latents[1])
        torch.testing.assert_close(images[0], images[1])
        assert both.digest == alone.digest

    def test_the_weights_are_small_and_of_half_precision(self) -> None:
        """They travel with the package."""
        from safetensors.torch import load_file

        assert digits.WEIGHTS.stat().st_size < 300_000
        assert {torch.float16} == {tensor.dtype for tensor in load_file(digits.WEIGHTS).values()}

    def test_other_images_are_refused(self) -> None:
        """Size and channels named."""
        found = load_generator("digits", **SHAPE)

        with pytest.raises(UsageError, match="makes images of 16 x 16 px, the data have 32 x 32; use --size 16"):
            probe(found, torch.arange(10), (1, 32, 32), CPU)
        with pytest.raises(UsageError, match=r"to shape \[3, 1, 16, 16\], the data need \[3, 3, 16, 16\]"):
            probe(found, torch.arange(10), (3, 16, 16), CPU)


SOURCE = """
from ddlabel.generators.linear import LinearGenerator
shared = LinearGenerator(channels=1, resolution=16, num_classes=10)
class Mine(LinearGenerator):
    state_dict = None
    def __init__(self): super().__init__(channels=1, resolution=16, num_classes=10)
def make(): return LinearGenerator(channels=1, resolution=16, num_classes=10)
def fails(): return 1 / 0
class Space: generator = shared
nothing = 7
"""


class TestFinding:
    """By name, in a module, in a file."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        (tmp_path / "mine.py").write_text(SOURCE)
        return tmp_path / "mine.py"

    @pytest.mark.parametrize("attribute", ["shared", "make", "Mine", "Space.generator"])
    def test_an_object_or_what_makes_one(self, file: Path, attribute: str) -> None:
        """An instance, a function, a class, an attribute of an attribute; named without its folder."""
        found = load_generator(f"{file}:{attribute}", **SHAPE)

        assert 16 == found.generator.resolution
        assert f"mine.py:{attribute}" == found.name

    def test_a_module_that_is_installed(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """By its dotted name."""
        monkeypatch.syspath_prepend(file.parent)

        assert "mine:make" == load_generator("mine:make", **SHAPE).name

    def test_without_weights_the_source_identifies_it(self, file: Path) -> None:
        """sha256 of the file."""
        found = load_generator(f"{file}:Mine", **SHAPE)

        assert "source" == found.hashed
        assert hashlib.sha256(file.read_bytes()).digest() == found.digest

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{folder}/none.py:make", "generator file '.*none.py' does not exist, expected FILE.py:ATTRIBUTE"),
            ("{folder}/mine.py:mak", r"no 'mak' in it \(it has: .*make.*\)"),
            ("{folder}/mine.py:", "no '' in it"),
            ("no_such_module_at_all:make", "cannot be imported: ModuleNotFoundError: No module named 'no_such"),
            ("{folder}/mine.py:nothing", "has no 'resolution'; has no 'num_classes'; has no 'output_range'; has no"),
        ],
        ids=["no file", "no attribute", "empty attribute", "no module", "no generator"],
    )
    def test_what_is_not_there(self, file: Path, text: str, message: str) -> None:
        """Refused with what is."""
        with pytest.raises(UsageError, match=message):
            load_generator(text.format(folder=file.parent), **SHAPE)

    @pytest.mark.parametrize(
        ("source", "kind"), [("import no_such_module_at_all", ImportError), ("def broken(:", SyntaxError)]
    )
    def test_a_file_that_cannot_be_imported_keeps_its_cause(
        self, tmp_path: Path, source: str, kind: type[Exception]
    ) -> None:
        """The message of the cause is shown; the traceback is kept."""
        (tmp_path / "broken.py").write_text(source)
        with pytest.raises(UsageError, match=r"broken.py' cannot be imported: \w+Error: ") as caught:
            load_generator(f"{tmp_path / 'broken.py'}:make", **SHAPE)

        assert isinstance(caught.value.__cause__, kind)

    def test_a_fault_inside_is_not_dressed_up(self, file: Path) -> None:
        """It propagates as it is, with a note saying where."""
        with pytest.raises(ZeroDivisionError) as caught:
            load_generator(f"{file}:fails", **SHAPE)

        assert [f"while making the generator '{file}:fails'"] == caught.value.__notes__

    def test_modules_are_frozen(self, tmp_path: Path) -> None:
        """Evaluation mode, no gradients of weights."""
        (tmp_path / "net.py").write_text(
            "import torch\nfrom torch import nn\nclass Net(nn.Module):\n    resolution, num_classes = 4, 3\n"
            "    output_range = (0.0, 1.0)\n    def __init__(self):\n        super().__init__()\n"
            "        self.layer = nn.Linear(2, 2)\n    def init_latents(self, labels, generator): ...\n"
            "    def decode(self, latents, labels): ...\n"
        )
        net: Any = load_generator(f"{tmp_path / 'net.py'}:Net", **SHAPE).generator

        assert isinstance(net, nn.Module)
        assert not net.training
        assert not any(parameter.requires_grad for parameter in net.parameters())

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("resolution", 0, "'resolution' is 0, expected a number of at least 1"),
            ("num_classes", "ten", "'num_classes' is 'ten'"),
            ("output_range", (1.0, -1.0), r"'output_range' is \(1.0, -1.0\), expected \(black, white\)"),
            ("decode", 3, "'decode' is no method"),
            ("project_", 3, "'project_' is no method"),
        ],
    )
    def test_ill_formed_members(self, name: str, value: object, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each named with its value."""
        made = Plain()
        setattr(made, name, value)
        monkeypatch.setitem(__import__("sys").modules, "holder", SimpleNamespace(made=made))

        with pytest.raises(UsageError, match=message):
            load_generator("holder:made", **SHAPE)


class Coupled(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values - values.mean(dim=0, keepdim=True)


class TestProbe:
    """What a generator does, each rule broken once."""

    def test_the_plain_one_passes(self) -> None:
        """So that the others fail for their one change."""
        probed()

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("init_latents", lambda labels, generator: [], "'init_latents' gave list, expected named tensors"),
            ("init_latents", lambda labels, generator: {}, "'init_latents' gave dict, expected named tensors"),
            ("init_latents", lambda labels, generator: {"z": labels}, "latent 'z' is no tensor of floating-point"),
            ("init_latents", lambda labels, generator: {"z": torch.zeros(1, 2)}, r"\[1, 2\], expected \[3, ...\]"),
            ("init_latents", lambda labels, generator: {"z": torch.full((3, 2), torch.nan)}, "'z' is not finite"),
            ("init_latents", lambda labels, generator: {"z": fresh_noise()}, "other latents for the same draws"),
            ("decode", lambda latents, labels: latents["z"].long(), "gave no tensor of floating-point numbers"),
            ("decode", lambda latents, labels: latents["z"], r"\[3, 2, 4, 4\], the data need \[3, 1, 4, 4\]"),
            ("decode", lambda latents, labels: latents["z"][:, :1] / 0, "gave values that are not finite"),
            ("decode", lambda latents, labels: latents["z"].detach()[:, :1], "nothing connects the images"),
            ("decode", lambda latents, labels: Coupled()(latents["z"][:, :1]), "depends on the others"),
        ],
        ids=[
            "no mapping", "no latents", "whole numbers", "wrong count", "nan latents", "hidden draws", "whole pixels",
            "wrong shape", "infinite pixels", "no gradient", "coupled images",
        ],
    )  # fmt: skip
    def test_a_broken_rule_is_named(self, name: str, value: Callable[..., Any], message: str) -> None:
        """Before any work."""
        with pytest.raises(UsageError, match=message):
            probed(**{name: value})

    def test_a_latent_without_influence_is_named(self) -> None:
        """It could never be learned."""

        def two(labels: Tensor, generator: Generator) -> dict[str, Tensor]:
            return {"z": torch.ones(len(labels), 2, 4, 4), "idle": torch.ones(len(labels), 2)}

        with pytest.raises(UsageError, match="not differentiable in latent 'idle'"):
            probed(init_latents=two)

    @pytest.mark.parametrize("rates", [{"z": -1.0}, {"z": float("inf")}, {"z": "fast"}, [1.0]])
    def test_rates_that_are_none(self, rates: object) -> None:
        """Numbers of at least 0 by name."""
        made = Plain()
        made.default_lrs = lambda: rates  # type: ignore[attr-defined]

        with pytest.raises(UsageError, match="'default_lrs'"):
            rates_of(loaded(made))


COUNT = iter(range(100))


def fresh_noise() -> Tensor:
    return torch.full((3, 2), float(next(COUNT)))


class TestClasses:
    """Which class of the generator is meant."""

    @pytest.mark.parametrize(
        ("ids", "classes", "message"),
        [
            (None, 2, "has 3 classes, the data have 2; say which are meant with --set class_ids"),
            ((0, 1, 2), 2, "names 3 classes, expected 2"),
            ((0, 3), 2, "has 3, generator 'mine' has classes 0 to 2"),
        ],
    )
    def test_what_does_not_fit(self, ids: tuple[int, ...] | None, classes: int, message: str) -> None:
        """Both numbers named."""
        with pytest.raises(UsageError, match=message):
            choose_classes(loaded(Plain()), ids, classes)

    def test_what_fits(self) -> None:
        """The same classes, or those named."""
        assert [0, 1, 2] == choose_classes(loaded(Plain()), None, 3).tolist()
        assert [2, 0] == choose_classes(loaded(Plain()), (2, 0), 2).tolist()


def test_a_net_trained_on_real_digits_knows_the_generated_ones() -> None:
    """At least 95 % of 500, after five epochs."""
    real = load("digits", size=16, validation=0.0).train
    net = build("convnet-d2-w8", channels=1, size=16, classes=10, generator=seeding.generator(0, "net"))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for epoch in range(5):
        for rows in torch.randperm(len(real.labels), generator=seeding.generator(0, "epoch", epoch)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(real.pixels[rows].float() / 255), real.labels[rows]).backward()
            optimizer.step()
    made = load_generator("digits", **SHAPE).generator
    labels = torch.arange(10).repeat_interleave(50)
    images = made.decode(made.init_latents(labels, seeding.generator(0, "x")), labels)

    assert float((net(images).argmax(dim=1) == labels).float().mean()) >= 0.95


def test_the_page_has_an_example_that_runs(run_cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file and its command, as printed but for fewer steps."""
    page = (ROOM.parent.parent / "docs" / "glad.md").read_text()
    (source,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    commands = [line.split()[1:] for line in page.splitlines() if line.startswith("ddlabel distill")]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "strokes.py").write_text(source)

    assert 2 <= len(commands)
    for words in commands:
        shorter = ["steps=2" if word.startswith("steps=") else word for word in words]
        outcome = run_cli(*shorter, "--set", "batch_real=8", "--force")
        assert 0 == outcome.code, outcome.err
