"""The report as one self-contained page: pictures that answer the pointer, tables that sort; it asks for nothing."""

import json
import re
from collections.abc import Mapping, Sequence

import vl_convert
from markdown_it import MarkdownIt

from newllm.analysis.figures import Figure
from newllm.analysis.report import environment

EMBED = """
for (const place of document.querySelectorAll("[data-chart]")) {
  const specification = JSON.parse(document.getElementById(place.dataset.chart).textContent);
  vegaEmbed(place, specification, {actions: false, renderer: "svg"});
}
"""


def write_page(report: str, appendix: str, figures: Sequence[Figure], home: str = "../../metrics/") -> str:
    """The page in HTML, from report and appendix in Markdown and the figures that they show.

    `home` is the way from the page's folder to that of the report, for its links to other files.
    """
    by_name = {figure.name: figure for figure in figures}
    charts = {
        f"{figure.name}-{number}": json.dumps(specification).replace("<", "\\u003c")
        for figure in figures
        for number, specification in enumerate(figure.specifications())
    }
    scripts = vl_convert.javascript_bundle(EMBED).replace("</script", "<\\/script")
    texts = [_html(text, by_name, home) for text in (report, appendix)]
    page = environment().get_template("page.html.j2").render(texts=texts, charts=charts, scripts=scripts)
    return page.rstrip("\n")


def _html(text: str, figures: Mapping[str, Figure], home: str) -> str:
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)

    def heading(match: re.Match[str]) -> str:
        slug = re.sub(r"[^\w -]", "", re.sub(r"<[^>]+>|&\w+;", "", match[2]).lower()).strip().replace(" ", "-")
        return f'<h{match[1]} id="{slug}">{match[2]}</h{match[1]}>'

    def picture(match: re.Match[str]) -> str:
        figure = figures[match[1]]
        places = "".join(
            f'<div class="chart" data-chart="{figure.name}-{number}"></div>' for number in range(len(figure.panels))
        )
        many = ' class="many"' if len(figure.panels) > 2 else ""
        return f"<figure{many}>{places}<figcaption><b>{match[2]}</b> {figure.subtitle}</figcaption></figure>"

    def link(match: re.Match[str]) -> str:
        inside = re.fullmatch(r"(?:appendix|report)\.md(#.*)?", match[1])
        if inside:
            return f'href="{inside[1] or "#"}"'
        return match[0] if ":" in match[1] else f'href="{home}{match[1]}"'

    html = re.sub(r"<h([1-6])>(.*?)</h\1>", heading, html)
    html = re.sub(r'<p><img src="[^"]*?([\w-]+)\.png" alt="([^"]*)" ?/?></p>', picture, html)
    html = re.sub(r'href="([^"]*)"', link, html)
    return re.sub(r"<table>.*?</table>", lambda match: f'<div class="table">{match[0]}</div>', html, flags=re.DOTALL)
