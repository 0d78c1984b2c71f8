"""kv_profile="auto": who finds or measures the profile of a model. Calibration runs models and stands above this room,
so the package hands it in when it is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from typing import Protocol

    from ..model.profile import Profile

    class Resolve(Protocol):
        """As calibration.auto.resolve."""

        def __call__(
            self,
            model_path: str | os.PathLike[str],
            *,
            allow_calibration: bool = True,
            llama_options: Optional[Mapping[str, Any]] = None,
        ) -> Profile: ...


_resolve: Optional[Resolve] = None


def hand_in(resolve: Resolve) -> None:
    """Use this from now on."""
    global _resolve
    _resolve = resolve


def profile(model_path: str, allow_calibration: bool, llama_options: Mapping[str, Any]) -> Profile:
    """The profile of a model that is loaded with these options. Raises as what was handed in."""
    if _resolve is None:  # our own mistake: compresskv_edge/__init__.py hands it in
        raise RuntimeError("nothing was handed in that finds profiles")
    return _resolve(model_path, allow_calibration=allow_calibration, llama_options=llama_options)
