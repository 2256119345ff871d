"""What has to be the same on all machines that compute a model, and what is said where it is not. No torch."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from servery import __version__
from servery.engine.config import EngineConfig
from servery.engine.errors import LoadError
from servery.engine.ranks.fingerprint import difference, fingerprint
from servery.engine.ranks.node_line import Hello


@dataclass(frozen=True, slots=True)
class Required:
    """What has to be the same on all machines."""

    version: str
    torch: str
    nnodes: int
    model: dict[str, str]
    tensor_parallel: int
    pipeline_parallel: int

    @classmethod
    def of(cls, config: EngineConfig) -> "Required":
        """As it is here; raises `LoadError` where there is no model."""
        return cls(
            __version__,
            torch_version(),
            config.nnodes,
            fingerprint(config.model),
            config.tensor_parallel,
            config.pipeline_parallel,
        )

    def objection(self, hello: Hello) -> str | None:
        """Why a node cannot take part; None if it can."""
        if hello.version != self.version:
            return f"it has servery {hello.version}, the head {self.version}; install the same on all nodes."
        if hello.torch != self.torch:
            return f"it has torch {hello.torch}, the head {self.torch}; install the same on all nodes."
        given = (
            ("--nnodes", hello.nnodes, self.nnodes),
            ("--tensor-parallel", hello.tensor_parallel, self.tensor_parallel),
            ("--pipeline-parallel", hello.pipeline_parallel, self.pipeline_parallel),
        )
        for option, theirs, ours in given:
            if theirs is not None and theirs != ours:
                return f"its {option} is {theirs}, the head's {ours}; say the same on all nodes."
        if not 0 < hello.node_rank < self.nnodes:
            return f"its --node-rank is {hello.node_rank}; with --nnodes {self.nnodes} it is 1 to {self.nnodes - 1}."
        if (names := difference(self.model, hello.model)) is not None:
            return f"its model is another than the head's: {names} differ. Give all nodes the same files."
        return None


def torch_version() -> str:
    """The release of torch that is installed, without what it was built for; nothing is loaded."""
    try:
        return version("torch").partition("+")[0]
    except PackageNotFoundError as error:
        raise LoadError("torch is not installed; pip install 'servery[engine]' brings it.") from error
