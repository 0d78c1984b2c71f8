"""What the library itself is given for a policy: heads, window and pooling, in the form of a profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, List

from ..model.profile import Profile, Settings
from ..policies.allocation import Known
from ..policies.needs import HEADS, Needs
from ..policies.policy import Policy
from ..policies.registry import get


def attached_profile(spec: str, profile: Profile, budget: Any) -> Profile:
    """What the library scores with under a policy. A budget in tokens may shrink the window. Raises PolicyError."""
    policy = get(spec)
    if policy.own_window:
        return profile.model_copy(
            update={"settings": profile.settings.model_copy(update={"window": policy.own_window})}
        )
    if not policy.native or _of_profile(policy.needs):
        return profile
    least = profile.settings.window
    window = policy.window_of(budget, least) if isinstance(budget, int) else max(policy.window, least)
    heads = _all_heads(profile)
    settings = Settings(
        window=window, kernel=policy.kernel, pooling=policy.pooling, n_heads=max(map(len, heads)), floor=window + 1
    )
    return profile.model_copy(update={"heads_ranked": tuple(map(tuple, heads)), "settings": settings})


def as_measured(policy: Policy, profile: Profile) -> Policy:
    """CompressKV's window and pooling are the profile's; edge has a window of its own."""
    settings = profile.settings
    if not _of_profile(policy.needs):
        return policy
    pooled = replace(policy, kernel=settings.kernel, pooling=settings.pooling)
    return pooled if policy.own_window else replace(pooled, window=settings.window)


def scores_alike(policy: Policy, profile: Profile, attached: Profile, mean: int) -> bool:
    """The library, which was given `attached`, selects what `policy` would at a mean budget (0: not known yet)."""
    settings = attached.settings
    heads = profile.heads_used() if _of_profile(policy.needs) else _all_heads(profile)
    same = (policy.kernel, policy.pooling, heads) == (settings.kernel, settings.pooling, attached.heads_used())
    return policy.native and same and (not mean or policy.window_of(mean, settings.window) == settings.window)


def known(profile: Profile, evictable: Sequence[int]) -> Known:
    """What the profile knows of the layers that can evict."""
    settings, curves = profile.settings, profile.error_curves
    errors = tuple(profile.layer_errors[il] for il in evictable)
    if curves is None:
        return Known(errors, settings.floor, settings.cap_factor)
    asked, later = curves.arrays()
    rows = list(evictable)
    return Known(errors, settings.floor, settings.cap_factor, (curves.tokens, asked[rows], later[rows]))


def _of_profile(needs: Needs) -> bool:
    return HEADS in needs


def _all_heads(profile: Profile) -> List[List[int]]:
    return [list(range(profile.model.heads_in(layer))) for layer in range(profile.model.n_layer)]
