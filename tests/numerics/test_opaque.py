"""Operations that the compiler does not look into: called directly only where nobody watches."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from rhapsode.ops.lookup import look_up
from rhapsode.ops.sketch.walsh_hadamard import walsh_hadamard

X = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))


def test_a_traced_function_computes() -> None:
    other = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    traced = make_fx(lambda x: walsh_hadamard(x))(X)
    assert torch.equal(traced(other), walsh_hadamard(other))


def test_shapes_alone_can_be_asked_for() -> None:
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(X)
        assert walsh_hadamard(fake).shape == X.shape
        assert look_up(fake, torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, 64)


def test_a_function_can_be_mapped_over_rows() -> None:
    torch.testing.assert_close(torch.func.vmap(walsh_hadamard)(X), walsh_hadamard(X))


@pytest.mark.parametrize(
    "call",
    [
        "from rhapsode.ops.lookup import look_up; look_up(x, ids)",
        "from rhapsode.ops.sketch.walsh_hadamard import walsh_hadamard; walsh_hadamard(x)",
        "from rhapsode.ops.hypervector import ALGEBRAS; from rhapsode.ops.superposition import read, route; "
        "read(x, ids[0], route(8, 4, 1, 0), ALGEBRAS['holographic'](64, 0))",
    ],
    ids=["look_up", "walsh_hadamard", "read"],
)
def test_a_call_that_nobody_watches_imports_no_compiler(call: str) -> None:
    script = (
        "import sys, torch\n"
        "x, ids = torch.ones(4, 64), torch.tensor([[1, 2]])\n"
        f"{call}\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
