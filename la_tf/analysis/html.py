"""Pages that need no other file: their templates, and pictures as parts of the page."""

import base64
import io

import jinja2
import numpy as np
from PIL import Image

THUMBNAIL = 128  # pixels; smaller images keep their own
_FEW = 48  # pixels; those of a smaller picture can be seen


def data_uri(picture: np.ndarray | Image.Image, side: int = THUMBNAIL) -> str:
    """A picture, uint8 [S, S, 3] or an image, as a data: address.

    It is scaled down to `side` pixels at most. Small pictures become PNG, others JPEG.
    """
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture.convert("RGB")
    kind = "PNG" if max(image.size) < _FEW else "JPEG"
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=85, optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{encoded}"


def html_template(package: str, name: str) -> jinja2.Template:
    """A template of a package, which escapes what it shows; it can include the report's style."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader(package), jinja2.PackageLoader("la_tf.analysis")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["picture_uri"] = data_uri
    environment.filters["svg_uri"] = _svg_uri
    return environment.get_template(name)


def _svg_uri(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode('ascii')}"
