"""`version` against what the packages say of themselves once imported."""

from __future__ import annotations

import json
import platform

import numpy as np
import safetensors
import torch
import zstandard


def test_versions_are_those_of_the_packages(run_cli) -> None:
    """Read without importing torch."""
    versions = json.loads(run_cli("version", "--json").out)["versions"]
    expected = {
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
        "zstandard": zstandard.__version__,
        "zstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
        "cuda": torch.version.cuda or "none",
    }

    assert expected == {**{name: versions[name] for name in expected}, "torch": versions["torch"].partition("+")[0]}
