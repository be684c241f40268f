"""What was cooked: all soups at a glance, then each with its members, its trace and where it comes from."""

from lightning_soups.ingredient import Ingredient
from lightning_soups.report.contents import Contents, Cooked
from lightning_soups.report.markup import Html, element, fragment
from lightning_soups.report.widgets import (
    LONG,
    Column,
    anchor,
    bullets,
    code,
    counted,
    facts,
    folded,
    joined,
    link,
    number,
    options,
    score,
    signed,
    table,
    versions,
)
from lightning_soups.soup import Soup
from lightning_soups.tables import REACH, trace_lines


def soups_section(contents: Contents) -> Html:
    """All soups at a glance, then one by one."""
    monitors = sorted({one.soup.monitor for one in contents.soups})
    columns = [
        Column("soup"),
        *(Column(monitor, numeric=True) for monitor in monitors),
        Column("gain", numeric=True),
        Column("members"),
        Column("samples evaluated", numeric=True),
        Column("options", wraps=True),
    ]
    rows = [
        [
            link(one.source, contents.soup_label(one)),
            *(score(one.soup.score.value) if monitor == one.soup.monitor else "–" for monitor in monitors),
            "–" if (gain := contents.gain(one)) is None else signed(gain),
            _members(one.soup),
            str(_samples(one.soup)),
            options(one.soup.options),
        ]
        for one in contents.soups
    ]
    overview = table(
        "Soups with their held-out score, best first, and what they gain over the best single ingredient", columns, rows
    )
    return fragment(overview, *(_one_soup(contents, one) for one in contents.soups))


def _one_soup(contents: Contents, one: Cooked) -> Html:
    soup = one.soup
    trace = [row for row in soup.trace if not row.is_left_out]
    seconds = sum(row.seconds for row in trace)
    more = ((name, logged) for name, logged in soup.metrics.items() if name != soup.monitor)
    left = soup.left_out
    known = [
        ("options", options(soup.options)),
        ("held-out score", fragment(f"{soup.monitor} ", score(soup.score.value))),
        ("logged with it", joined(fragment(f"{name} ", score(logged)) for name, logged in more) or "nothing else"),
        ("members", _members(soup)),
        ("cost", f"{counted(len(trace), 'question')}, {_samples(soup)} samples evaluated, {seconds:.1f} s"),
        *([("left out", bullets(fragment(code(str(bad.path)), f": {bad.reason}") for bad in left))] if left else []),
        ("caveats", bullets(soup.caveats) if soup.caveats else "none: scores are exact"),
        ("created", one.created),
        ("versions", versions(one.versions)),
    ]
    parts = [element("h3", f"{soup.recipe} ", code(one.source), id=anchor(one.source)), facts(known)]
    parts.append(folded(f"Members and their coefficients ({len(soup.mixture)})", _mixed(contents, one), _short(soup)))
    if soup.mixture.layers:
        parts.append(folded("Coefficients of layers that have their own", _layers(contents, one), is_open=False))
    if trace:
        parts.append(folded(f"What it asked, in order ({len(trace)})", _trace(one), is_open=len(trace) <= LONG))
    return element("article", *parts)


def _mixed(contents: Contents, one: Cooked) -> Html:
    columns = [
        Column("member"),
        Column("coefficient", numeric=True),
        Column("recorded score", numeric=True),
        Column("checkpoint, as the soup names it"),
    ]
    rows = [
        [_member(contents, member), number(share, f"{share:.4f}"), _recorded(member), code(str(member.path))]
        for member, share in one.soup.mixture.coefficients.items()
    ]
    return table(f"{one.source}: members in the order in which they joined", columns, rows)


def _layers(contents: Contents, one: Cooked) -> Html:
    layers = one.soup.mixture.layers
    columns = [Column("member"), *(Column(layer, numeric=True) for layer in layers)]
    rows = [
        [_member(contents, member), *(number(own[member], f"{own[member]:.4f}") for own in layers.values())]
        for member in one.soup.mixture
    ]
    return table(f"{one.source}: coefficients by layer; other tensors have those above", columns, rows)


def _trace(one: Cooked) -> Html:
    columns = [
        Column("question", numeric=True),
        Column("asked about"),
        Column(one.soup.monitor, numeric=True),
        Column("answer"),
        Column("samples", numeric=True),
    ]
    rows = [
        [str(count), line.asked, number(line.question.score.value, line.score), line.verdict or "–", line.samples]
        for count, line in enumerate(trace_lines(one.soup.trace), start=1)
        if not line.question.is_left_out
    ]
    asked = table(f"{one.source}: what the recipe asked, in order", columns, rows, heading=1)
    if not any(row.early for row in one.soup.trace):
        return asked
    reach = f"{REACH[one.soup.score.mode]}: left out before all samples were evaluated, as more was out of reach."
    return fragment(asked, element("p", reach, class_="note"))


def _member(contents: Contents, member: Ingredient) -> str:
    here = contents.find(member)
    return contents.label(member) if here is None else link(here.source, contents.label(member))


def _recorded(member: Ingredient) -> str:
    if member.monitor is None or member.monitor not in member.metrics:
        return "–"
    return fragment(f"{member.monitor} ", score(member.metrics[member.monitor]))


def _members(soup: Soup) -> str:
    chosen = sum(member in soup.candidates for member in soup.ingredients)
    initialization = " + initialization" if chosen < len(soup.ingredients) else ""
    return f"{chosen} of {len(soup.candidates)} ingredients{initialization}"


def _samples(soup: Soup) -> int:
    return sum(row.samples for row in soup.trace)


def _short(soup: Soup) -> bool:
    return len(soup.mixture) <= LONG
