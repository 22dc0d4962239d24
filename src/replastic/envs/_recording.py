"""A short film of an agent at work: GIF by pillow, MP4 by imageio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch import Tensor

from replastic.disk import not_written, replacing
from replastic.envs._environment import Environment
from replastic.errors import UserError
from replastic.extras import require

ENDINGS: Final = (".gif", ".mp4")
FRAMES_A_SECOND: Final = 15


def record(
    environment: Environment, act: Callable[[Tensor], Tensor], file: Path, *, steps: int = 450, every: int = 1
) -> float:
    """Play one episode in the first copy, and write what is seen.

    Args:
        environment: Made with ``drawn=True``; it is acted in from where it stands.
        act: Gives the actions of all copies for their observations.
        file: Its ending decides the format: ``.gif`` or ``.mp4``. It appears whole or not at all.
        steps: Most steps that are shown.
        every: Steps from one picture to the next.

    Returns:
        The score of what was shown: the sum of the game's own rewards.

    Raises:
        UserError: The environment cannot be drawn here, there is no such format, or the file cannot be written.
        MissingExtraError: What writes the format is not installed.
    """
    writer = _writer(file)
    pictures, score = [_even(environment.render())], 0.0
    for number in range(1, steps + 1):
        step = environment.step(act(environment.observations))
        score += float(step.raw_rewards[0])
        if bool(step.ended[0]):
            break
        if number % every == 0:
            pictures.append(_even(environment.render()))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as draft:
            writer(draft, pictures)
    except OSError as error:
        raise not_written(file, error) from error
    return score


def check_recording(environment: Environment, file: Path) -> None:
    """See that `record` would work, before anything long begins.

    Raises:
        UserError: As `record`, and MissingExtraError.
    """
    _writer(file)
    environment.render()


def _writer(file: Path) -> Callable[[Path, Sequence[Any]], None]:
    """A function that writes pictures, (height, width, 3) uint8 each."""
    if file.suffix.lower() not in ENDINGS:
        raise UserError(f"a recording must end in {' or '.join(ENDINGS)}, got {str(file)!r}")
    if file.suffix.lower() == ".gif":
        image = require("PIL.Image", "rl", "recording a GIF")
        return lambda draft, pictures: _write_gif(image, draft, pictures)
    require("imageio_ffmpeg", "video", "recording an MP4")
    imageio = require("imageio.v2", "video", "recording an MP4")
    return lambda draft, pictures: imageio.mimwrite(draft, pictures, format="mp4", fps=FRAMES_A_SECOND)


def _write_gif(image: Any, draft: Path, pictures: Sequence[Any]) -> None:
    first, *others = [image.fromarray(picture) for picture in pictures]
    duration = round(1000 / FRAMES_A_SECOND)
    first.save(draft, format="GIF", save_all=True, append_images=others, duration=duration, loop=0)


def _even(picture: Tensor) -> np.ndarray[Any, Any]:
    """The picture with even height and width, as video formats want them."""
    height, width, _ = picture.shape
    return picture[: height - height % 2, : width - width % 2].numpy()
