"""What a reader should know first, in plain words."""

from lightning_soups.report.contents import Contents, by_monitor, judge_ingredient, judge_soup
from lightning_soups.report.markup import Html, element, fragment
from lightning_soups.report.widgets import bullets, code, counted, joined, link, score, signed
from lightning_soups.score import Mode
from lightning_soups.tables import show_score


def summary_section(contents: Contents) -> Html:
    """How many of what, the best of each, and what studies found."""
    parts = [element("p", _opening(contents))]
    singles = by_monitor(contents.ingredients, judge_ingredient)
    soups = by_monitor(contents.soups, judge_soup)
    parts += [_best(contents, monitor, mode) for monitor, mode in sorted({*singles, *soups})]
    if contents.soups:
        optimistic = (
            "Expect less of soups on new data: recipes choose by the held-out data, and the best soup is the best of"
            " several there. What studies report is measured on test data where they name any."
        )
        parts.append(element("p", optimistic, class_="note"))
    if contents.studies:
        parts.append(element("h3", "What the studies found"))
        for one in contents.studies:
            name = fragment(link(one.source, one.result.study), " ", code(one.source))
            parts += [element("p", name), bullets(one.result.conclusions)]
    return fragment(*parts)


def failures_section(contents: Contents) -> Html:
    """Which files could not be read, and why."""
    return bullets(fragment(code(one.source), f": {one.reason}") for one in contents.failures)


def _opening(contents: Contents) -> Html:
    ingredients = [one.ingredient for one in contents.ingredients]
    runs = len({ingredient.run for ingredient in ingredients})
    text = counted(len(ingredients), "ingredient") + (f" of {counted(runs, 'run')}" if ingredients else "")
    starts = {ingredient.initialization for ingredient in ingredients}
    if len(starts) > 1:
        text += f", which started from {len(starts)} different initializations (which seldom average well)"
    elif starts - {None}:
        text += ", all started from the same weights"
    recipes = [link(one.source, contents.soup_label(one)) for one in contents.soups]
    studies = [link(one.source, contents.study_label(one)) for one in contents.studies]
    parts = [
        f"{text}. {counted(len(recipes), 'soup')}",
        *([": ", joined(recipes)] if recipes else []),
        f". {counted(len(studies), 'study', 'studies')}",
        *([": ", joined(studies)] if studies else []),
        ".",
    ]
    if contents.failures:
        count = f"{counted(len(contents.failures), 'file')} could not be read"
        parts += [" ", element("a", count, href="#failures"), "."]
    return fragment(*parts)


def _best(contents: Contents, monitor: str, mode: Mode) -> Html:
    """The best single ingredient and the best soup by one metric, and the difference."""
    single = contents.best_single(monitor, mode)
    soups = contents.best_soups(monitor, mode)
    direction = "more is better" if mode == "max" else "less is better"
    cards = []
    if single is not None:
        name = link(single.source, contents.label(single.ingredient))
        cards.append(_card("Best single ingredient", score(single.score.value), name))
    if soups:
        names = joined(link(one.source, contents.soup_label(one)) for one in soups)
        cards.append(_card("Best soup" if len(soups) == 1 else "Best soups", score(soups[0].soup.score.value), names))
    gain = contents.gain(soups[0]) if soups else None
    parts = []
    if gain is not None:
        cards.append(_card("Gain", signed(gain), "of the soup over the single ingredient"))
        verdict = "as good as" if gain == 0 else f"{show_score(abs(gain))} {'better' if gain > 0 else 'worse'} than"
        parts.append(element("p", f"The best soup is {verdict} the best single ingredient on the held-out data."))
    title = fragment("On the held-out data: ", code(monitor), f", {direction}")
    return fragment(element("h3", title), element("dl", *cards, class_="cards"), *parts)


def _card(title: str, figure: str, source: str) -> Html:
    return element(
        "div", element("dt", title), element("dd", figure, class_="figure"), element("dd", source, class_="source")
    )
