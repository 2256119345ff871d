"""Images in a conversation: kept as the client gave them, for models that see."""

import re
from dataclasses import dataclass

import msgspec

from servery.wire.errors import ApiError, invalid, shown, unsupported

_DATA_URL = re.compile(r"data:(?P<media_type>[\w.+-]+/[\w.+-]+);base64,(?P<data>[A-Za-z0-9+/=\s]+)\Z")


class ImageUrl(msgspec.Struct, frozen=True):
    """Where an image is: an address, or the image itself as a data URL; `detail` is how closely to look at it."""

    url: str
    detail: str | None = None


class ImagePart(msgspec.Struct, frozen=True, tag_field="type", tag="image_url"):
    """An image among the parts of a message."""

    image_url: ImageUrl

    def shown_path(self, path: str) -> str:
        """By what path its client knows it; `path` is where it stands in the chat."""
        return path

    def refusal(self, path: str) -> ApiError:
        """What tells a client that the model sees no images; `path` is where the image stands in the chat."""
        return unsupported(path, "'image_url' parts cannot be read; this model takes text only.")


class PlacedImage(ImagePart, frozen=True, kw_only=True):
    """An image whose client knows it by another `path` than that in the chat, and by another noun ("'image' blocks")."""

    path: str
    noun: str

    def shown_path(self, path: str) -> str:
        """As its client has it."""
        return self.path

    def refusal(self, path: str) -> ApiError:
        """The same, in the client's words."""
        return unsupported(self.path, f"{self.noun} cannot be read; this model takes text only.")


@dataclass(frozen=True, slots=True)
class InlineImage:
    """An image's bytes, in base64, and what they are ("image/png")."""

    media_type: str
    data: str


def read_image(image: ImagePart, path: str) -> InlineImage | str:
    """The image itself, or its address if it is not there; raises `ApiError` for a data URL that is none."""
    url = image.image_url.url
    if not url.startswith("data:"):
        return url
    found = _DATA_URL.match(url)
    if found is None:
        given = shown(url)
        raise invalid(f"'{path}' is '{given}'; a data URL begins with 'data:image/png;base64,', or another type.", path)
    return InlineImage(found["media_type"], "".join(found["data"].split()))


def data_url(media_type: str, data: str) -> str:
    """An image's bytes, in base64, as an address."""
    return f"data:{media_type};base64,{data}"
