"""The charts: every number is in the table, and drawings are well-formed whatever names say."""

import math
import re
from xml.etree import ElementTree

import pytest
import torch

from tersenet.report.contents import counted
from tersenet.report.escape import middle_cut
from tersenet.report.figures import Axis, Figure, Panel, Point, Series, bars, heat_map, levels, scatter, standalone
from tersenet.report.figures.svg import Scale, short

HOSTILE = ("<script>alert(1)</script>", "a\"b'c&d", "\x00\x1b[2J\x7f", "‮evil‏", "n" * 10_000, "\udc80", "")


def drawn(figure: Figure) -> ElementTree.Element:
    return ElementTree.fromstring(standalone(figure))


def test_every_point_is_in_the_table_and_what_is_not_finite_is_not_drawn() -> None:
    points = [Point(10, 1.0, 0.5, 1.5, "a"), Point(1000, math.inf, label="b"), Point(0, 2.0), Point(100, 50.0)]
    figure = scatter("t", Axis("bytes", log=True), Axis("drop", most=10.0), [Series("m", points)])
    assert [row[1:3] for row in figure.rows] == [("10", "1"), ("1,000", "inf"), ("0", "2"), ("100", "50")]
    assert figure.elements.count("<circle") == 2  # one of them in the legend
    assert figure.note == "3 of 4 points are in the table only"


def test_a_chart_of_thousands_of_points_draws_three_hundred() -> None:
    points = [Point(i + 1, float(i)) for i in range(5000)]
    figure = scatter("t", Axis("x"), Axis("y"), [Series("m", points)])
    assert figure.elements.count("<circle") == 301 and len(figure.rows) == 5000


def test_bars_beyond_sixty_are_the_largest_in_their_order() -> None:
    values: list[float | None] = [float(i) for i in range(100)]
    figure = bars("t", "tensor", [f"w{i:03}" for i in range(100)], [Panel("bits", values)])
    names = re.findall(r">(w\d+)<", figure.elements)
    assert names == [f"w{i:03}" for i in range(40, 100)] and len(figure.rows) == 100 and "60 largest" in figure.note


def test_an_unknown_value_is_said_and_has_no_bar() -> None:
    figure = bars("t", "tensor", ["a", "b"], [Panel("bits", [None, 2.0])])
    assert figure.elements.count("<rect") == 1 and "unknown" in figure.elements and figure.rows[0] == ("a", "")


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name[:10]))
def test_drawings_are_well_formed_and_short_whatever_names_say(name: str) -> None:
    point = Series(name, [Point(1, 2, label=name)])
    for figure in (
        scatter(name, Axis(name), Axis(name), [point]),
        bars(name, name, [name], [Panel(name, [1.0])]),
        heat_map(name, [name], [[1.0]]),
        levels(name, counted(torch.tensor([0, 1]), torch.tensor([0.0, 1.0])), name),
    ):
        root = drawn(figure)
        assert root.find(".//{http://www.w3.org/2000/svg}script") is None
        assert len(standalone(figure)) < 6000 and "\x1b" not in standalone(figure)
        assert "‮" not in standalone(figure) and "\udc80" not in standalone(figure)


def test_nothing_at_all_is_a_chart_too() -> None:
    for empty in (
        scatter("nothing yet", Axis("x", log=True), Axis("y"), []),
        bars("nothing yet", "what", [], [Panel("bits", [])]),
        heat_map("nothing yet", [], []),
    ):
        drawn(empty)
        assert "nothing yet" in standalone(empty) and "nan" not in standalone(empty).lower()


def test_levels_are_counted_with_the_length_of_an_ideal_code() -> None:
    codes = torch.tensor([-1, -1, 0, 0, 0, 0, 2, 2], dtype=torch.int8)
    found = counted(codes, codes * torch.tensor([1.0, 2.0] * 4))
    assert [(level.codes[0], level.count) for level in found] == [(-1, 2), (0, 4), (1, 0), (2, 2)]
    assert [level.length for level in found] == [2.0, 1.0, math.inf, 2.0]
    assert found[0].values == (-2.0, -1.0) and found[3].values == (2.0, 4.0)


@pytest.mark.parametrize("top", [999, 1 << 20], ids=["a table", "rare large codes"])
def test_many_levels_are_sixty_four_groups_whose_lengths_are_means(top: int) -> None:
    codes = torch.cat(
        [torch.randint(0, 1000, (20_000,), generator=torch.Generator().manual_seed(0)), torch.tensor([top])]
    )
    found = counted(codes, codes.float())
    assert len(found) == 64 and sum(level.count for level in found) == 20_001
    assert found[0].codes[0] == 0 and found[-1].codes[1] == top
    share = codes.unique(return_counts=True)[1].double() / 20_001
    entropy = float(-(share * share.log2()).sum())
    mean = sum(level.count * level.length for level in found if level.count) / 20_001
    assert mean == pytest.approx(entropy, rel=1e-9)


def test_the_heat_map_is_darkest_at_the_largest_and_tells_signs_apart() -> None:
    figure = heat_map("t", ["a", "b"], [[4.0, -2.0], [-2.0, 0.0]])
    cells = re.findall(r'class="fill (c\d)" fill-opacity="([\d.]+)"', figure.elements)
    assert cells == [("c0", "1.00"), ("c1", "0.50"), ("c1", "0.50"), ("c0", "0.00")]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[5.0], [1.0, 1e6], [0.001, 0.0011], [1e-300, 1e300], [3.0, 3.0]], ids=str)
def test_a_scale_has_a_few_ticks_inside_and_places_for_all_values(values: list[float], log: bool) -> None:
    scale = Scale.over(values, 0, 100, log)
    assert 1 <= len(scale.ticks) <= 12 and all(scale.holds(tick) for tick in scale.ticks)
    assert all(-1 <= scale.at(value) <= 101 for value in values)


def test_numbers_of_axes_are_short() -> None:
    assert [short(x) for x in (0.0, 1234.0, 123_456.0, 7_654_321.0, 1e10, -20_000.0)] == [
        *("0", "1234", "123.5k", "7.654M", "10G", "-20k")
    ]


def test_long_names_lose_their_middle() -> None:
    assert middle_cut("layer1.0.conv1.weight", 11) == "laye…weight" and middle_cut("short", 11) == "short"
