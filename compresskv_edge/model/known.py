"""The profile of a model that nobody has to measure: shipped with the package, or stored by a calibration before."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Optional

import platformdirs

from ..errors import ProfileError
from .facts import ModelFacts
from .profile import Profile


def shipped(facts: ModelFacts, model_hash: str) -> Optional[Profile]:
    """The shipped profile made for this very file, or for a model of the same facts and name."""
    profiles = [Profile.load(name) for name in Profile.names()]
    exact = (p for p in profiles if p.calibration is not None and p.calibration.tensor_hash == model_hash)
    return next(exact, None) or next((p for p in profiles if _fits(p, facts)), None)


def cached(model_hash: str) -> Optional[Profile]:
    """The profile that an earlier calibration stored; None as well if the file is damaged or of another version."""
    path = cache_path(model_hash)
    try:
        found = Profile.load(path) if path.is_file() else None
    except ProfileError as error:
        warnings.warn(f"calibrating again: {error}", stacklevel=2)
        return None
    return found if found and found.calibration and found.calibration.tensor_hash == model_hash else None


def cache_path(model_hash: str) -> Path:
    """Where the profile of a model is kept."""
    return (
        platformdirs.user_cache_path("compresskv", appauthor=False)
        / "profiles"
        / f"{model_hash.split(':')[-1][:32]}.json"
    )


def _fits(profile: Profile, facts: ModelFacts) -> bool:
    """Shapes are shared by unrelated models, so the name has to agree as well; a vendor's name may come before it."""
    ours, theirs = (re.sub(r"[^a-z0-9]", "", model.name.lower()) for model in (profile.model, facts))
    try:
        profile.check(facts)
    except ProfileError:
        return False
    return bool(ours) and theirs.endswith(ours)
