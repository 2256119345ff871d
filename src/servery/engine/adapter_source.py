"""What an adapter is called, where it lies, and what is known of it once it is loaded. No torch."""

import re
from pathlib import Path

import msgspec

from servery.engine.errors import BadAdapterName

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

DEFAULT_MAX_RANK = 64

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")


class AdapterSource(msgspec.Struct, frozen=True):
    """A folder in PEFT's layout under the name that clients ask for. Raises `BadAdapterName` for a name that cannot be one."""

    name: str
    path: Path

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise BadAdapterName(
                f"the adapter's name {self.name[:110]!r} cannot be used; take up to 100 letters, digits, '.', '_', '-' "
                "and '/', beginning with a letter or digit."
            )


class AdapterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A loaded adapter. `adapter_id` is never given twice, so a name that is loaded again has another.

    `rank` is the largest of its modules', `num_modules` how many it changes, `nbytes` the memory of its weights.
    """

    adapter_id: int
    name: str
    rank: int
    num_modules: int
    nbytes: int
