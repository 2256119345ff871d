"""A plot as a file of its own is whole: nothing in it is loaded, and it is well-formed."""

from xml.etree import ElementTree

from servery.bench.page.axis import Axis
from servery.bench.page.picture import picture
from servery.bench.page.plot import Plot


def test_a_picture_has_its_style_its_ground_and_its_label_inside() -> None:
    plot = Plot('Rate & "load"', "clients", "requests/s", Axis(0.0, 10.0), Axis(0.0, 5.0))
    plot.line([(0.0, 1.0), (10.0, 4.0)], 1, "answered", has_dots=True)
    root = ElementTree.fromstring(picture(plot))
    tags = [each.tag.rpartition("}")[2] for each in root]
    assert tags[:3] == ["style", "rect", "text"]
    assert root[2].text == 'Rate & "load"'
    assert root.attrib["aria-label"] == 'Rate & "load": requests/s over clients'
    assert "prefers-color-scheme: dark" in (root[0].text or "")
    assert "http" not in picture(plot).replace("http://www.w3.org/2000/svg", "")
