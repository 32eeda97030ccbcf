"""torch.compile (inductor) on the CPU: a minute of compilation per network, so for a few final ones."""

import inspect
import shutil
from typing import Any, ClassVar

import torch

from latency.measuring.engines.torch_eager import TorchEager
from supernet.extras import NotInstalledError
from supernet.options import options

COMPILERS = ("c++", "g++", "clang++")


@options
class TorchCompile(TorchEager):
    def __post_init__(self) -> None:
        if not any(map(shutil.which, COMPILERS)):
            raise NotInstalledError(
                f"engine=torch_compile needs a C++ compiler ({', '.join(COMPILERS)}); install one (g++) or "
                "take engine=torch_eager"
            )
        if "isolate_recompiles" not in inspect.signature(torch.compile).parameters:
            raise NotInstalledError(
                "engine=torch_compile needs a PyTorch whose torch.compile has isolate_recompiles, which "
                f"{torch.__version__} has not: pip install -U torch"
            )

    version: ClassVar[str] = f"torch {torch.__version__} inductor, {torch.backends.cpu.get_cpu_capability()}"

    def prepare(self, network: torch.nn.Module, images: torch.Tensor) -> tuple[Any, torch.Tensor]:
        """The compiled network and its (batch, 3, side, side) input; compiles here, not in the first run."""
        # Networks share the code of `forward`: together they would hit the limit of 8 compilations, and the
        # ninth would run eagerly without a word.
        options = {"dynamic": False, "isolate_recompiles": True}
        session = (torch.compile(network, **options), images)  # type: ignore[call-overload]
        self.run(session)
        return session
