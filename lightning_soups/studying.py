"""What a trainer does to study: choose inside the kept validate loop, then measure inside the kept test loop."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_soups.bad_ingredients import BadIngredientError
from lightning_soups.checking import ContentChecks, Files
from lightning_soups.evaluation.admission import admit
from lightning_soups.evaluation.agreement import damaged, found_by_any
from lightning_soups.evaluation.kept_loop import KeptLoop
from lightning_soups.evaluation.measurer import NoTestData
from lightning_soups.evaluation.progress import RecipeProgress
from lightning_soups.evaluation.replay_measurer import ReplayMeasurer, WhatToReport
from lightning_soups.evaluation.session import HeldOutQuestions, ask
from lightning_soups.evaluation.staging import Staging
from lightning_soups.ingredient import Ingredient
from lightning_soups.ingredients import Ingredients
from lightning_soups.mixing import Mixer
from lightning_soups.mixture import Mixture
from lightning_soups.paths import AnyPath
from lightning_soups.records import versions
from lightning_soups.score import Mode
from lightning_soups.studies import Findings, Study, StudyResult
from lightning_soups.weights.batch_norm import differing, tracking_layers


@dataclass(frozen=True)
class Chosen:
    """What was chosen on the held-out data.

    Args:
        plan: The study's own.
        questions: What it was asked, with the ingredients that were let in.
        checked: How the files of these looked when they were checked.
        mode: The direction of the monitor, once it is known.
        caveats: Why held-out scores may not be exact.
    """

    plan: Any
    questions: HeldOutQuestions
    checked: Mapping[Ingredient, Files]
    mode: Mode | None
    caveats: tuple[str, ...]


@dataclass(frozen=True)
class Choose:
    """What runs inside the kept validate loop, on every process; picklable.

    Args:
        study: What to study.
        questions: Which ingredients, and the score to choose by.
        stem: Where results go, a path without suffix.
    """

    study: Study
    questions: HeldOutQuestions
    stem: AnyPath

    def __call__(self, loop: KeptLoop) -> Chosen:
        """Let the study choose."""
        study = self.study
        questions, mixer = admit(self.questions, loop, check_content=True)  # studies use all of them, and twice
        with questions.evaluator(loop, mixer, study.name, self.stem) as evaluator:
            plan = ask(evaluator, study.choose)
        left_out = [f"Left out: {str(one.path)!r}: {one.reason}." for one in questions.ingredients.left_out]
        caveats = [*left_out, *evaluator.caveats, *_about_statistics(loop, mixer, questions.ingredients)]
        return Chosen(plan, questions, mixer.checks.checked, evaluator.mode, tuple(caveats))


@dataclass(frozen=True)
class Measured:
    """What was found on the test data, and on which."""

    findings: Findings
    metric: str
    mode: Mode
    in_distribution: tuple[str, ...]
    shifted: tuple[str, ...]
    caveats: tuple[str, ...]

    @classmethod
    def without_test_data(cls, study: Study, chosen: Chosen) -> "Measured":
        """For a study that reports what it found on the held-out data."""
        assert chosen.mode is not None
        measurer = NoTestData(chosen.questions.monitor, chosen.mode)
        return cls(study.measure(chosen.plan, measurer), measurer.metric, measurer.mode, (), (), ())


@dataclass(frozen=True)
class Measure:
    """What runs inside the kept test loop, on every process; picklable.

    Args:
        study: What to study.
        what: What to report.
        chosen: What was chosen on the held-out data.
    """

    study: Study
    what: WhatToReport
    chosen: Chosen

    def __call__(self, loop: KeptLoop) -> Measured:
        """Let the study measure.

        Raises:
            BadIngredientError: An ingredient was changed since the study chose.
        """
        trainer, questions = loop.trainer, self.chosen.questions
        mixer = questions.mixer(loop, ContentChecks(self.chosen.checked, finite=not questions.takes_diverged))
        ingredients = questions.ingredients
        if bad := found_by_any(loop, mixer.open_all(ingredients)) or damaged(loop, mixer, ingredients):
            raise BadIngredientError(bad)
        pin = trainer.strategy.root_device.type == "cuda"
        progress = RecipeProgress(trainer, self.study.name, 0)
        with progress, Staging(mixer, pin) as staging:
            loop.progress = progress
            first, monitor = Mixture.uniform(ingredients[:1]), questions.monitor
            measurer = ReplayMeasurer(loop, progress, mixer, staging, self.what, monitor, self.chosen.mode, first)
            findings = self.study.measure(self.chosen.plan, measurer)
        shown = (measurer.metric, measurer.mode, measurer.in_distribution, measurer.shifted)
        return Measured(findings, *shown, caveats=tuple(loop.source.caveats))


def result_of(study: Study, chosen: Chosen, measured: Measured) -> StudyResult:
    """Put together what a study found and where it comes from."""
    questions = chosen.questions
    findings = measured.findings
    return StudyResult(
        study=study.name,
        options=study.options,
        rows=tuple(dict(row) for row in findings.rows),
        conclusions=tuple(findings.conclusions),
        models={name: _described(mixture) for name, mixture in findings.models.items()},
        details=dict(findings.details),
        monitor=questions.monitor,
        metric=measured.metric,
        mode=measured.mode,
        in_distribution=measured.in_distribution,
        shifted=measured.shifted,
        ingredients=tuple(map(_entry, questions.ingredients)),
        caveats=tuple(dict.fromkeys((*chosen.caveats, *measured.caveats))),
        versions=versions(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _about_statistics(loop: KeptLoop, mixer: Mixer, ingredients: Ingredients) -> list[str]:
    """Say so when soups are worse in a study than they are when they are cooked."""
    layers = tracking_layers(loop.trainer.lightning_module)
    if not layers or not mixer.holds_weights or not differing(layers, map(mixer.state_dict, ingredients)):
        return []
    return [
        "Running statistics of BatchNorm layers are averaged in studies, and recalculated when soups are cooked"
        " (batch_norm): mixtures are measured as worse here than they can be."
    ]


def save(study: Study, result: StudyResult, stem: AnyPath) -> AnyPath:
    """Save table and figure, all or none: ``.json``, ``.csv``, ``.png`` and ``.svg``; returns the first."""
    try:
        figure = study.draw(result)
    except ImportError as error:
        rank_zero_warn(f"No figure was drawn: {error}. Install it with: pip install 'lightning-soups[report]'.")
        figure = None
    return result.save(stem, figure)


def _described(mixture: Mixture) -> Mapping[str, Any]:
    def plain(coefficients: Mapping[Ingredient, float]) -> dict[str, float]:
        return {str(member.path): value for member, value in coefficients.items()}

    layers = {layer: plain(own) for layer, own in mixture.layers.items()}
    return {"coefficients": plain(mixture.coefficients), **({"layers": layers} if layers else {})}


def _entry(ingredient: Ingredient) -> dict[str, Any]:
    return {
        "path": str(ingredient.path),
        "run": ingredient.run,
        "metrics": dict(ingredient.metrics),
        "hyperparameters": dict(ingredient.hyperparameters),
    }
