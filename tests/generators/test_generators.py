"""Every generator of the room against the contract; how a user's own is found; what is refused, by what it lacks."""

from __future__ import annotations

import hashlib
import random
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from ddlabel import _plugins, seeding
from ddlabel.data._dataset import load
from ddlabel.errors import InterruptedRunError, UsageError
from ddlabel.generators import digits
from ddlabel.generators._find import load_generator
from ddlabel.generators._generator import Loaded, running
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
    rates_of(loaded(made), probe(loaded(made), torch.arange(3), (1, 4, 4), CPU))


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
            ("no_such_module_at_all:make", "importing it raised ModuleNotFoundError: No module named 'no_such"),
            ("{folder}/mine.py:nothing", "has no 'resolution'; has no 'num_classes'; has no 'output_range'; has no"),
        ],
        ids=["no file", "no attribute", "empty attribute", "no module", "no generator"],
    )
    def test_what_is_not_there(self, file: Path, text: str, message: str) -> None:
        """Refused with what is."""
        with pytest.raises(UsageError, match=message):
            load_generator(text.format(folder=file.parent), **SHAPE)

    @pytest.mark.parametrize(
        ("source", "kind", "message"),
        [
            ("import no_such_module_at_all", ImportError, "ModuleNotFoundError: No module.*; install what it imports"),
            ("def broken(:", SyntaxError, r"SyntaxError: invalid syntax \(broken.py, line 1\); --debug shows where"),
            ("1 / 0", ZeroDivisionError, "ZeroDivisionError: division by zero; --debug shows where"),
            ("import sys; sys.exit(0)", SystemExit, "SystemExit: 0"),
        ],
    )
    def test_a_file_that_cannot_be_imported_keeps_its_cause(
        self, tmp_path: Path, source: str, kind: type[BaseException], message: str
    ) -> None:
        """The message of the cause is shown; the traceback is kept; leaving the process is no way out."""
        (tmp_path / "broken.py").write_text(source)
        with pytest.raises(UsageError, match=rf"generator '.*broken.py': importing it raised {message}") as caught:
            load_generator(f"{tmp_path / 'broken.py'}:make", **SHAPE)

        assert isinstance(caught.value.__cause__, kind)

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("def it(): return 1 / 0", "'it' raised ZeroDivisionError: division by zero"),
            ("class it:\n    def __init__(self): raise ValueError('no weights')", "'it' raised ValueError: no weights"),
            ("def it(): raise SystemExit", "'it' raised SystemExit;"),
            (
                "class it:\n    @property\n    def resolution(self): raise KeyError('px')",
                "'resolution' raised KeyError: 'px'",
            ),
            ("class it(LinearGenerator):\n    def state_dict(self): return 7", "'state_dict' raised AttributeError"),
        ],
        ids=["function", "class", "exit", "property", "state_dict"],
    )
    def test_a_fault_inside_names_generator_and_member(self, tmp_path: Path, body: str, message: str) -> None:
        """Whatever is raised, wherever."""
        head = "from ddlabel.generators.linear import LinearGenerator\n"
        call = "\nmake = lambda: it(channels=1, resolution=4, num_classes=3)\n"
        (tmp_path / "faulty.py").write_text(head + body + call)
        attribute = "make" if "LinearGenerator)" in body else "it"
        with pytest.raises(UsageError, match=rf"generator '.*faulty.py:{attribute}': {re.escape(message)}"):
            load_generator(f"{tmp_path / 'faulty.py'}:{attribute}", **SHAPE)

    @pytest.mark.parametrize("text", [":make", ":"])
    def test_a_name_without_a_place_is_refused(self, text: str) -> None:
        """With what can be typed."""
        with pytest.raises(UsageError, match=f"'{text}', which names no module and no file; type NAME, MODULE:ATTR"):
            load_generator(text, **SHAPE)

    @pytest.mark.parametrize("text", [".mine:make", "~nobody/mine.py:make", "a" * 300 + ".py:make"])
    def test_odd_places_are_refused(self, text: str) -> None:
        """Never a traceback."""
        with pytest.raises(UsageError, match=r"generator .* raised|generator file"):
            load_generator(text, **SHAPE)

    def test_what_it_prints_goes_to_stderr(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """At import and in every call: stdout is for bundles and reports."""
        (tmp_path / "loud.py").write_text(
            "import torch\nprint('import')\nclass Loud:\n    resolution, num_classes, output_range = 4, 3, (-1., 1.)\n"
            "    def __init__(self): print('made')\n"
            "    def init_latents(self, labels, generator):\n        print('init')\n"
            "        return {'z': torch.randn(len(labels), 1, 4, 4, generator=generator)}\n"
            "    def decode(self, latents, labels):\n        print('decode')\n        return latents['z'].tanh()\n"
            "    def default_lrs(self):\n        print('rates')\n        return {}\n"
            "    def project_(self, latents): print('project')\n    def to(self, device): print('to')\n"
            "    def state_dict(self):\n        print('state')\n        return {}\n"
        )
        found = load_generator(f"{tmp_path / 'loud.py'}:Loud", channels=1, resolution=4, num_classes=3)
        found.move(CPU)
        rates_of(found, probe(found, torch.arange(3), (1, 4, 4), CPU))
        printed = capsys.readouterr()

        assert "" == printed.out
        assert {"import", "made", "init", "decode", "rates", "project", "to", "state"} == set(printed.err.split())

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
            ("output_range", (0.0, float("inf")), r"'output_range' is \(0.0, inf\)"),
            ("decode", 3, "'decode' is no method"),
            ("project_", 3, "'project_' is no method"),
        ],
    )
    def test_ill_formed_members(self, name: str, value: object, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each named with its value."""
        made = Plain()
        setattr(made, name, value)
        monkeypatch.setitem(sys.modules, "holder", SimpleNamespace(made=made))

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
            ("init_latents", lambda labels, generator: {0: torch.zeros(3, 2)}, "named a latent 0, expected a text"),
            ("init_latents", lambda labels, generator: renamed(labels), "other latents for the same draws"),
            ("decode", lambda latents, labels: latents["z"][:2, :1], r"shape \[2, 1, 4, 4\], expected \[3, channels"),
            ("decode", lambda latents, labels: latents["z"][:, :1].double(), "gave torch.float64, expected torch.fl"),
            ("decode", lambda latents, labels: latents["z"][:, :1] + torch.rand(()), "must not draw at random"),
            ("decode", lambda latents, labels: latents["z"][:, :1] + random.random(), "must not draw at random"),
            ("decode", lambda latents, labels: latents["w"], "'decode' raised KeyError: 'w'"),
            ("decode", lambda latents, labels: sys.exit(0), "'decode' raised SystemExit: 0"),
            ("decode", lambda latents, labels: OneWay.apply(latents["z"][:, :1]), "gradient of 'decode' raised Runtim"),
            ("project_", lambda latents: latents.update(z=torch.zeros(3)), r"made latent 'z' .*\[3\] on cpu, expected"),
            ("project_", lambda latents: latents.update(z=latents["z"].double()), "torch.float64 .*, expected torch.f"),
            ("project_", lambda latents: latents["z"].fill_(torch.nan), "'project_' made latent 'z' not finite"),
            ("project_", lambda latents: latents.clear(), "'project_' left the latents none, expected z"),
            ("project_", lambda latents: latents["y"].clamp_(0), "'project_' raised KeyError: 'y'"),
            ("default_lrs", lambda: {}["z"], "'default_lrs' raised KeyError: 'z'"),
        ],
        ids=[
            "no mapping", "no latents", "whole numbers", "wrong count", "nan latents", "hidden draws", "whole pixels",
            "wrong shape", "infinite pixels", "no gradient", "coupled images", "unnamed latent", "other names",
            "too few images", "double images", "torch draws", "python draws", "missing key", "exit",
            "fault in the gradient", "projected shape", "projected type", "projected to nan", "projected away",
            "fault in the projection", "fault in the rates",
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

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), InterruptedRunError(15), MemoryError()])
    def test_what_is_not_its_fault_passes(self, error: BaseException) -> None:
        """Interrupts and a lack of memory have their own exit codes."""
        with pytest.raises(type(error)), running("mine", "'decode'"):
            raise error

    @pytest.mark.parametrize("rates", [{"z": -1.0}, {"z": float("inf")}, {"z": "fast"}, [1.0], {"y": 1.0}])
    def test_rates_that_are_none(self, rates: object) -> None:
        """Numbers of at least 0 by name of a latent that there is."""
        made = Plain()
        made.default_lrs = lambda: rates  # type: ignore[attr-defined]

        with pytest.raises(UsageError, match="'default_lrs'"):
            rates_of(loaded(made), ("z",))


class OneWay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise RuntimeError("no way back")


COUNT = iter(range(100))


def fresh_noise() -> Tensor:
    return torch.full((3, 2), float(next(COUNT)))


def renamed(labels: Tensor) -> dict[str, Tensor]:
    return {f"z{next(COUNT)}": torch.zeros(len(labels), 1, 4, 4)}


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
