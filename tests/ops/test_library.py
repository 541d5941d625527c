"""Loading of the compiled library, and the switch to the reference."""

import importlib
import warnings

import pytest
import torch

from rlaif_pl import ops
from rlaif_pl.ops import _library


@pytest.fixture
def environment(monkeypatch):
    """Clear both switches and hand out a setter."""
    for name in ("RLAIF_PL_REQUIRE_EXT", "RLAIF_PL_DISABLE_EXT"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def cannot_load(_name):
    raise ImportError("undefined symbol: torch_something")


def test_disabled_means_the_reference(environment):
    environment.setenv("RLAIF_PL_DISABLE_EXT", "1")
    assert _library._load_extension() is False


def test_disabled_and_required_contradict_each_other(environment):
    environment.setenv("RLAIF_PL_DISABLE_EXT", "1")
    environment.setenv("RLAIF_PL_REQUIRE_EXT", "1")
    with pytest.raises(ImportError, match="unset one of the two"):
        _library._load_extension()


def test_required_but_unloadable_says_how_to_build(environment):
    environment.setenv("RLAIF_PL_REQUIRE_EXT", "1")
    environment.setattr(importlib, "import_module", cannot_load)
    with pytest.raises(ImportError, match="undefined symbol.*RLAIF_PL_BUILD=cpu pip install"):
        _library._load_extension()


def test_a_broken_library_is_announced(environment):
    environment.setattr(importlib, "import_module", cannot_load)
    environment.setattr(importlib.util, "find_spec", lambda _name: object())
    with pytest.warns(RuntimeWarning, match="installed but did not load.*undefined symbol"):
        assert _library._load_extension() is False


def test_a_pure_python_install_is_silent(environment):
    environment.setattr(importlib, "import_module", cannot_load)
    environment.setattr(importlib.util, "find_spec", lambda _name: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _library._load_extension() is False


def test_the_library_tells_whether_it_has_kernels_for_cuda():
    if not ops.EXTENSION_LOADED:
        pytest.skip("no compiled library: build rlaif_pl._C")
    library = importlib.import_module(_library.EXTENSION)
    assert library.with_cuda is (ops.backend_of("gae", "cuda") == "compiled")


def test_the_switch_nests_and_ends():
    before = ops.backend_of("gae", "cpu")
    with ops.use_reference():
        with ops.use_reference():
            assert ops.backend_of("gae", "cpu") == "reference"
        assert ops.backend_of("gae", "cpu") == "reference"
    assert ops.backend_of("gae", "cpu") == before


def test_the_switch_reaches_the_dispatcher(monkeypatch):
    calls = []
    real = _library.reference.gae

    def spy(*args):
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(_library.reference, "gae", spy)
    with ops.use_reference():
        ops.gae(torch.zeros(1, 2), torch.zeros(1, 2))
    assert len(calls) == 1


def test_a_device_without_kernels_runs_the_reference():
    assert ops.backend_of("gae", "xpu") == "reference"


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU, for machines without one."""

    device = torch.device("cuda", 0)


def test_a_gpu_without_kernels_is_announced_once(environment):
    _library._warn_of_missing_cuda_kernels.cache_clear()
    margin, grad = torch.tensor([0.5, -0.25]), torch.ones(2)
    run = _library._fallback("pairwise_ce_bwd")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        want = run(margin, grad, 2.0)
    environment.setattr(_library.reference, "pairwise_ce_bwd", lambda *_: "made")
    run = _library._fallback("pairwise_ce_bwd")
    with pytest.warns(
        RuntimeWarning, match="no CUDA kernels .*RLAIF_PL_BUILD=cuda pip install"
    ) as said:
        made = [run(margin.as_subclass(OnGpu), grad, 2.0) for _ in range(2)]
    assert made == ["made", "made"]
    assert len(said) == 1
    assert torch.equal(want[0], 2.0 * margin)


def test_a_gpu_whose_kernels_were_switched_off_is_silent(environment):
    _library._warn_of_missing_cuda_kernels.cache_clear()
    environment.setenv("RLAIF_PL_DISABLE_EXT", "1")
    environment.setattr(_library.reference, "gae", lambda *_: "made")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _library._fallback("gae")(torch.zeros(1).as_subclass(OnGpu)) == "made"
    _library._warn_of_missing_cuda_kernels.cache_clear()


def test_an_unknown_op_is_refused():
    with pytest.raises(ValueError, match="must be one of gae, .*; got 'gea'"):
        ops.backend_of("gea", "cpu")
