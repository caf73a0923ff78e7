"""The pages in a real browser: contrast, headings, labels, keyboard, no request, no error, with and without scripts.

Command:
    python benchmarks/page_check.py PAGE.html [PAGE.html ...] --browser /usr/bin/chromium [--pictures DIR]
    python benchmarks/page_check.py --cases 200 --items 500 --browser /usr/bin/chromium

Needs the package ``playwright`` (not its own browsers) and a Chromium. Each page is opened at 1280 and 400 pixels, in
light and dark. Contrast is that of WCAG 2.1: 4.5 for text, 3 for large text, of every text that is shown against the
background behind it. ``--cases`` makes a report of that many cases of so many items each in place of files, and says
what its files weigh and how long drawing and opening them takes. Exit code 1 when a check fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

WIDTHS = (1280, 400)
SCHEMES = ("light", "dark")
_SEEN = """() => {
  const problems = [], named = node => (node.getAttribute('aria-label') || node.innerText || '').trim();
  const rgb = text => { const c = text.match(/[\\d.]+/g).map(Number); return c.length > 3 ? c : [...c, 1]; };
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => [.2126, .7152, .0722].reduce((sum, part, at) => sum + part * linear(c[at] / 255), 0);
  const behind = node => {
    for (let at = node; at; at = at.parentElement) {
      const c = rgb(getComputedStyle(at).backgroundColor);
      if (c[3] > 0) return c;
    }
    return [255, 255, 255, 1];
  };
  let texts = 0, worst = 99;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, at = node.parentElement;
    if (!node.data.trim() || at.closest('script,style,title,[hidden]') || !at.getClientRects().length) continue;
    const style = getComputedStyle(at), size = parseFloat(style.fontSize), bold = style.fontWeight >= 700;
    const ink = rgb(at.closest('svg') ? style.fill : style.color), paper = behind(at);
    const [high, low] = [light(ink), light(paper)].sort((a, b) => b - a), ratio = (high + .05) / (low + .05);
    const least = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    texts++; worst = Math.min(worst, ratio);
    if (ratio < least) problems.push(`contrast ${ratio.toFixed(2)} of "${node.data.trim().slice(0, 30)}"`);
  }
  const lines = [...document.querySelectorAll('svg line, svg circle, svg polyline, svg rect, svg path')].slice(0, 4000);
  for (const shape of lines) {
    const style = getComputedStyle(shape), drawn = style.stroke === 'none' ? style.fill : style.stroke;
    const [high, low] = [light(rgb(drawn)), light(behind(shape))].sort((a, b) => b - a);
    if ((high + .05) / (low + .05) < 3) problems.push(`a shape ${shape.getAttribute('class')} of contrast under 3`);
  }
  if (!document.documentElement.lang) problems.push('no language');
  if (!document.title) problems.push('no title');
  if (document.querySelectorAll('h1').length !== 1) problems.push('not one h1');
  if (!document.querySelector('main')) problems.push('no main');
  let level = 0;
  for (const head of document.querySelectorAll('h1,h2,h3,h4,h5,h6')) {
    const own = Number(head.tagName[1]);
    if (own > level + 1) problems.push(`h${own} behind h${level}`);
    level = own;
  }
  const ids = [...document.querySelectorAll('[id]')].map(node => node.id);
  if (new Set(ids).size < ids.length) problems.push('one id twice');
  for (const link of document.querySelectorAll('a[href]')) {
    if (!link.hash || !document.getElementById(link.hash.slice(1))) problems.push(`a link to ${link.href.slice(-30)}`);
    if (!named(link)) problems.push('a link without a name');
  }
  for (const field of document.querySelectorAll('input,select,textarea'))
    if (!(field.labels && field.labels.length) && !field.ariaLabel) problems.push('a field without a label');
  for (const picture of document.querySelectorAll('svg,img'))
    if (!picture.ariaLabel && !picture.alt) problems.push('a picture without words');
  for (const head of document.querySelectorAll('th')) if (!head.scope) problems.push('a th without scope');
  for (const table of document.querySelectorAll('table')) {
    const box = table.parentElement;
    const wide = box.scrollWidth > box.clientWidth + 1;
    if (wide && box.tabIndex < 0) problems.push('a wide table that no key scrolls');
  }
  const regions = document.querySelectorAll('[role=region]');
  for (const box of regions) if (!named(box)) problems.push('a region without a name');
  if (document.documentElement.scrollWidth > innerWidth + 1) problems.push('the page scrolls sideways');
  return {problems: [...new Set(problems)], texts, worst, shapes: lines.length};
}"""
_STOPS = """() => [...document.querySelectorAll('a[href],input,summary,[tabindex="0"]')]
  .filter(node => node.checkVisibility() && !node.closest('[hidden]')).length"""
_FOCUS = """() => {
  const at = document.activeElement;
  if (!at || at === document.body) return null;
  const style = getComputedStyle(at);
  at.dataset.reached = '1';
  return style.outlineStyle !== 'none' && style.outlineWidth !== '0px';
}"""
_MOST_STOPS = 400


def main() -> int:
    """Check every page and print a line for each view."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--cases", type=int)
    parser.add_argument("--items", type=int, default=500)
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        pages = [page.resolve() for page in args.pages]
        if args.cases:
            pages.append(made(args.cases, args.items, Path(folder)))
        browser = play.chromium.launch(executable_path=args.browser, args=["--no-sandbox"])
        problems = [problem for page in pages for problem in checked(browser, page, args.pictures)]
        browser.close()
    print("\n".join(problems) or "no problem")
    return int(bool(problems))


def checked(browser: Any, page: Path, pictures: Path | None) -> Iterator[str]:
    """Problems of one page in all views; prints what was seen."""
    for width in WIDTHS:
        for scheme in SCHEMES:
            view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            said: list[str] = []
            _listen(view, said)
            begun = time.perf_counter()
            view.goto(page.as_uri())
            opened = time.perf_counter() - begun
            for details in view.query_selector_all("details")[:20]:
                details.evaluate("node => { node.open = true }")
            seen = view.evaluate(_SEEN)
            where = f"{page.name} at {width} in {scheme}"
            print(f"{where}: opened in {opened:.2f} s; {seen['texts']} texts, contrast {seen['worst']:.2f} at least; "
                  f"{seen['shapes']} shapes")  # fmt: skip
            yield from (f"{where}: {problem}" for problem in seen["problems"])
            yield from (f"{where}: {words}" for words in said if words != f"request: {page.as_uri()}")
            if pictures:
                pictures.mkdir(parents=True, exist_ok=True)
                view.screenshot(path=pictures / f"{page.stem}-{width}-{scheme}.png")
            view.close()
    yield from by_keyboard(browser, page)
    yield from without_scripts(browser, page)


def _listen(view: Any, said: list[str]) -> None:
    view.on("console", lambda message: said.append(f"console: {message.text}"))
    view.on("pageerror", lambda error: said.append(f"error: {error}"))
    view.on("request", lambda request: said.append(f"request: {request.url}"))


def by_keyboard(browser: Any, page: Path) -> Iterator[str]:
    """Everything that can be used is reached with the tab key, and shows that it is."""
    view = browser.new_page(viewport={"width": 1280, "height": 900})
    view.goto(page.as_uri())
    stops, unseen = min(view.evaluate(_STOPS), _MOST_STOPS), 0
    for _ in range(stops):
        view.keyboard.press("Tab")
        unseen += view.evaluate(_FOCUS) is False
    reached = view.evaluate("() => document.querySelectorAll('[data-reached]').length")
    print(f"{page.name}: {reached} of {stops} stops reached with the tab key")
    if reached < stops:
        yield f"{page.name}: {stops - reached} of {stops} are not reached with the tab key"
    if unseen:
        yield f"{page.name}: {unseen} show no focus"
    first = view.query_selector("summary")
    if first:
        first.focus()
        view.keyboard.press("Enter")
        if not first.evaluate("node => node.parentElement.open"):
            yield f"{page.name}: a case does not open by the enter key"
    search = view.query_selector("input[type=search]")
    if search:
        rows = "() => [...document.querySelectorAll('#table tbody tr')].filter(row => row.checkVisibility()).length"
        begun = time.perf_counter()
        search.fill("no such words")
        view.wait_for_function(f"() => ({rows})() === 0", timeout=20000)
        print(f"{page.name}: filtered in {time.perf_counter() - begun:.2f} s")
    view.close()


def without_scripts(browser: Any, page: Path) -> Iterator[str]:
    """The same words without scripts."""
    said = []
    for scripts in (True, False):
        context = browser.new_context(java_script_enabled=scripts)
        view = context.new_page()
        view.goto(page.as_uri())
        said.append(len(view.inner_text("main")))
        context.close()
    print(f"{page.name}: {said[1]} letters without scripts, {said[0]} with")
    if said[1] < 0.95 * said[0]:
        yield f"{page.name}: {said[0] - said[1]} letters are missing without scripts"


def made(cases: int, items: int, folder: Path) -> Path:
    """A report of ``cases`` cases of a 0/1 score over ``items`` items each, in 20 of 100 of which something turned."""
    from quantgate.reports.actions import MOST_BYTES, summary
    from quantgate.reports.reporters import DRAWINGS
    from tests.unit.reports.shown import payload, report_of

    tasks = ("truthfulqa", "mmlu_cloze", "arc_easy", "hellaswag", "piqa")
    begun = time.perf_counter()
    report = report_of(
        *(
            payload(f"m{at // len(tasks)}", 0.8 - at % 7 / 20, task=tasks[at % len(tasks)], items=items)
            for at in range(cases)
        )
    )
    print(f"{cases} cases of {items} items: {time.perf_counter() - begun:.1f} s to judge them")
    for row in DRAWINGS:
        begun = time.perf_counter()
        text = row.draw(report)
        if text:
            (folder / row.file).write_text(text, encoding="utf-8")
            print(f"{row.file}: {len(text.encode()) / 1e6:.2f} MB, drawn in {time.perf_counter() - begun:.1f} s")
    size = len(summary(report).encode())
    print(f"step summary: {size / 1024:.0f} KiB of {MOST_BYTES / 1024:.0f} ({size <= MOST_BYTES})")
    return folder / "report.html"


if __name__ == "__main__":
    sys.exit(main())
