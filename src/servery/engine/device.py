"""Where an engine computes: the CPU, or an NVIDIA GPU, and what that one can do."""

import torch

from servery.engine.errors import LoadError

CPU = torch.device("cpu")
# The first with bfloat16 in its matrix units (Ampere), and the first with float8 (Ada, Hopper).
BFLOAT16_CAPABILITY = (8, 0)
FLOAT8_CAPABILITY = (8, 9)


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """The device for an `EngineConfig.device`; of several GPUs process `local_rank` takes the one of that number.

    Raises `LoadError` that says what torch finds, and what to do, when it is not there.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise LoadError(f"--device {name}: {_why_no_gpu()} Or compute on the CPU with --device cpu.")
    number = int(name.partition(":")[2] or local_rank)
    count = torch.cuda.device_count()
    if number >= count:
        names = ", ".join(f"cuda:{each} ({torch.cuda.get_device_name(each)})" for each in range(count))
        wanted = f"--device {name}" if ":" in name else f"process {local_rank}"
        raise LoadError(
            f"{wanted} needs GPU number {number}, but torch finds {count}: {names}. Choose one of these, lower "
            "--tensor-parallel or --pipeline-parallel, or look at CUDA_VISIBLE_DEVICES."
        )
    return torch.device("cuda", number)


def use_device(device: torch.device) -> None:
    """Let a GPU be the one that libraries launch on which are told of none."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def check_float8(device: torch.device, option: str) -> None:
    """Raise `LoadError` if `option` needs float8 and the GPU has none; a CPU converts it."""
    if device.type != "cuda":
        return
    capability = torch.cuda.get_device_capability(device)
    if capability < FLOAT8_CAPABILITY:
        raise LoadError(
            f"{option} needs float8, which GPUs have from compute capability {_dotted(FLOAT8_CAPABILITY)} on (Ada, "
            f"Hopper); {torch.cuda.get_device_name(device)} has {_dotted(capability)}. Choose int8 instead."
        )


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 as fast as any 16-bit type."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= BFLOAT16_CAPABILITY
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001 - the only way to ask torch
    return supported


def device_name(device: torch.device) -> str:
    """For people: "cpu", or such as "cuda:0 (NVIDIA H100 80GB HBM3)"."""
    return str(device) if device.type != "cuda" else f"{device} ({torch.cuda.get_device_name(device)})"


def free_bytes(device: torch.device) -> int:
    """Memory of a GPU that nobody has taken."""
    free, _ = torch.cuda.mem_get_info(device)
    return free


def _why_no_gpu() -> str:
    if torch.version.cuda is None:
        return (
            f"this torch ({torch.__version__}) was built without CUDA. Install a build of torch for CUDA "
            "(its site says which fits your driver)."
        )
    return (
        f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no GPU. See whether nvidia-smi lists one, whether "
        "its driver is recent enough for that CUDA, and what CUDA_VISIBLE_DEVICES says."
    )


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
