"""One run of a suite: open the model, make the samples, fill the journal, summarise."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Optional, cast

from .. import policies
from ..calibration import auto
from ..engine.machine import machine_facts
from ..errors import EvaluationError
from ..method.budget import resolve_mean_budget
from ..model.gguf_file import GGUF
from ..model.profile import Profile
from ..runtime.llama import Llama, ProfileSource
from ..runtime.outputs import AllLogits
from . import form as forms
from . import grid
from .journal import Journal
from .outcome import Budget, Outcome
from .player import Player
from .sample import Sample, Suite, SuitePlan, choose_tasks
from .states import States
from .summary import summarise

SUITES = ("niah", "ruler", "kv", "qa", "multi_turn", "fidelity")
BUDGETS: tuple[Budget, ...] = (0.007, 0.015, 0.03, 0.06, 0.12)

_SMALL = 100_000_000  # parameters: models below know what they were trained for, no more
_SLACK_TOKENS = 1024  # of context for answers and later turns
_PATHS = ("haystack", "data")


@dataclass(frozen=True)
class Setup:
    """How a model is run. profile: as Llama's kv_profile; None: uncalibrated. tail: rows beside the budget.

    protect_system: what comes before the document is never evicted and counts in the budget, as in a chat. states:
    folder where documents that several questions share are kept as they were read (states.py).
    """

    model: Path
    profile: Optional[ProfileSource] = None
    form: str = "auto"
    tail: int = 128
    n_threads: int = 1
    n_gpu_layers: int = 0
    protect_system: bool = False
    states: Optional[Path] = None


def load_suite(name: str) -> Suite:
    """The module of a suite. Raises EvaluationError for an unknown one."""
    if name not in SUITES:
        raise EvaluationError(f"suite is {name!r}: use {', '.join(SUITES)}")
    return cast(Suite, importlib.import_module(f"{__package__}.{name}"))


def check(names: Sequence[str], budgets: Sequence[Budget]) -> None:
    """Say what is wrong with policies and budgets before a model is loaded. Raises PolicyError, BudgetError."""
    for name in names:
        policies.get(name)
    for budget in budgets:
        resolve_mean_budget(budget, 1)


@dataclass(frozen=True)
class SuiteResult:
    """The summary of a run, its journal's path, and what was run through the model this time."""

    summary: dict[str, Any]
    journal: Path
    counters: dict[str, int]


class SuiteRun:
    """A suite on a model, ready to run. Raises EvaluationError, and what loading a model raises."""

    def __init__(
        self, suite: str, setup: Setup, plan: SuitePlan, journal: Path, *, limit: Optional[int] = None
    ) -> None:
        """limit: of samples, the first ones; more of them later go on in the same journal."""
        module = load_suite(suite)
        file, profile = GGUF.open(setup.model), _profile(setup)
        self._llm = open_model(setup, profile, max(plan.contexts))
        prompter = forms.Prompter(self._llm, forms.choose(self._llm, setup.form))
        self._n_threads = setup.n_threads
        self._setup, self._profile = setup, profile
        chat = prompter.form.special
        self.plan = plan if plan.data is not None and suite == "qa" else _with_tasks(module, plan, self._llm, chat)
        self.samples: list[Sample] = module.make(self.plan, prompter)[:limit]
        self.header: dict[str, Any] = {
            "suite": suite,
            "model": {
                "name": self._llm.metadata.get("general.name", ""),
                "file": setup.model.name,
                "hash": file.hash(),
            },
            "profile": _profile_facts(profile),
            "settings": {**_settings(self.plan, suite), "form": type(prompter.form).__name__, "tail": setup.tail},
        }
        if setup.protect_system:
            self.header["settings"]["protect_system"] = True
        self._player = self._new_player(self._llm, prompter, setup.tail)
        self.journal = Journal(journal, self._fixed())

    def run(
        self,
        names: Sequence[str],
        budgets: Sequence[Budget],
        report: Callable[[grid.Step], None] = lambda _: None,
        base: str = grid.BASE,
    ) -> SuiteResult:
        """Every policy at every budget, compared with `base`; with what an earlier run of the same journal has left."""
        with _numpy_threads(self._n_threads):
            for player, group in self._players(names, budgets):
                grid.run(player, self.samples, group, budgets, self.journal, self._progress(names, budgets, report))
        summary = {
            **self.header,
            "machine": machine_facts(),
            **summarise(self._ordered(names), self.samples, base),
        }
        return SuiteResult(summary, self.journal.path, vars(self._player.counters))

    def _players(self, names: Sequence[str], budgets: Sequence[Budget]) -> Iterator[tuple[Player, list[str]]]:
        """Policies share one model and its prefill, but for those that have the library's window to themselves."""
        groups: dict[int, list[str]] = {}
        for name in names:
            groups.setdefault(_window_alone(name, budgets, self._profile.settings.window), []).append(name)
        yield self._player, groups.pop(0, [])
        for window, group in groups.items():
            # as many free rows as the others, and so as many bytes: a tail holds the window as well
            setup = replace(self._setup, tail=self._setup.tail - (self._profile.settings.window - window))
            llm = open_model(setup, self._profile, max(self.plan.contexts), group[0])
            try:
                prompter = forms.Prompter(llm, forms.choose(llm, self._setup.form))
                player = self._new_player(llm, prompter, setup.tail)
                player.counters = self._player.counters
                yield player, group
            finally:
                llm.close()

    def _new_player(self, llm: AllLogits, prompter: forms.Prompter, tail: int) -> Player:
        setup = self._setup
        window = llm.kv_stats().window_bytes
        key = f"{self.header['model']['hash']} {llm.n_ctx()} {tail} {window}"
        states = None if setup.states is None else States(setup.states, key)
        return Player(llm, prompter, protect_system=setup.protect_system, states=states)

    def _progress(
        self, names: Sequence[str], budgets: Sequence[Budget], report: Callable[[grid.Step], None]
    ) -> Callable[[grid.Step], None]:
        """Report groups of policies as one run."""
        keys = [(sample.name, *cell) for sample in self.samples for cell in grid.cells(names, budgets)]
        return lambda step: report(grid.Step(sum(key in self.journal for key in keys), len(keys), step.sample))

    def _fixed(self) -> dict[str, Any]:
        """What may not differ between runs that share a journal. More repeats add prompts and change none."""
        settings = {name: value for name, value in self.header["settings"].items() if name != "repeats"}
        return {**self.header, "settings": settings}

    def _ordered(self, names: Sequence[str]) -> list[Outcome]:
        """The journal's outcomes by policy, as asked for now, and budget, however many runs they come from."""
        mine = {sample.name for sample in self.samples}
        found = [outcome for outcome in self.journal.outcomes() if outcome.sample in mine]
        order = list(dict.fromkeys((grid.FULL, *names, *(outcome.policy for outcome in found))))
        return sorted(found, key=lambda outcome: (order.index(outcome.policy), float(outcome.budget)))

    def close(self) -> None:
        self._llm.close()


def _window_alone(name: str, budgets: Sequence[Budget], shared: int) -> int:
    """The library's window that a policy needs for itself; 0 where that of the others leaves it all that it keeps.

    The player shows it no more queries than it would have on a model of its own.
    """
    policy = policies.get(name)
    alike = all(isinstance(b, int) and policy.window_of(b, policy.own_window) >= shared for b in budgets)
    return 0 if alike else policy.own_window


def open_model(setup: Setup, profile: Profile, n_prompt: int, policy: str = grid.BASE) -> AllLogits:
    """The model with a compressed cache that holds whole prompts. Raises EvaluationError if it ends before n_prompt."""
    context = _trained_context(setup.model)
    if n_prompt > context:
        raise EvaluationError(
            f"{setup.model.name!r} knows {context} tokens, the prompts have {n_prompt}: lower --contexts"
        )
    llm = AllLogits(
        str(setup.model),
        kv_profile=profile,
        kv_policy=policy,
        kv_prefill="full",
        kv_tail=setup.tail,
        kv_protect=False,  # methods as their papers have them
        n_ctx=min(n_prompt + _SLACK_TOKENS, context),
        n_threads=setup.n_threads,
        n_threads_batch=setup.n_threads,
        n_gpu_layers=setup.n_gpu_layers,
        verbose=False,
    )
    # scores of logits_all, unused here, which every state would copy: 300 MB with a vocabulary of 150,000
    llm.scores = llm.scores[:0]
    return llm


def _numpy_threads(n: int) -> Any:
    """Policies are scored in NumPy: on as many threads as the model runs on."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise EvaluationError(
            "evaluations need threadpoolctl, which is not installed: pip install 'compresskv-edge[eval]'"
        ) from error
    return threadpool_limits(n)


def _trained_context(model: Path) -> int:
    fields = GGUF.open(model).metadata
    return int(fields.get(f"{fields.get('general.architecture')}.context_length", 1 << 30))


def _profile(setup: Setup) -> Profile:
    if setup.profile is None:
        return Profile.uniform(setup.model)
    if setup.profile == "auto":
        return auto.resolve(
            setup.model, llama_options={"n_threads": setup.n_threads, "n_gpu_layers": setup.n_gpu_layers}
        )
    return Profile.load(setup.profile)


def _profile_facts(profile: Profile) -> dict[str, Any]:
    return {
        "name": profile.model.name,
        "calibrated": profile.calibration is not None and profile.calibration.heads_calibrated,
        "hash": _hash([profile.heads_ranked, profile.layer_errors]),
        **profile.settings.model_dump(),
    }


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def _with_tasks(module: Suite, plan: SuitePlan, llm: Llama, chat: bool = False) -> SuitePlan:
    import llama_cpp

    small = llama_cpp.llama_model_n_params(llm.model) < _SMALL
    return replace(plan, tasks=choose_tasks(module.TASKS, plan.tasks, small=small, chat=chat))


def _settings(plan: SuitePlan, suite: str) -> Mapping[str, Any]:
    """The plan, as far as the suite looks at it, without folders of this machine: of a path only the name is kept."""
    paths = {name: getattr(plan, name) for name in _PATHS}
    names = {name: None if path is None else Path(os.fspath(path)).name for name, path in paths.items()}
    settings = {**vars(plan), **names}
    ours = {"decode_tokens": "fidelity", "questions": "niah", "rows": "qa", "answer_tokens": "qa"}
    return {name: value for name, value in settings.items() if ours.get(name, suite) == suite}
