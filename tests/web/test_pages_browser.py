"""The dashboard in a real Chromium: no violation of its policy, no request elsewhere, and all that the script does.

They need Playwright and a Chromium: `CHROMIUM=/path/to/it`, or `chromium` in the path.
"""

import asyncio
import os
import re
import shutil
from urllib.parse import urlsplit

import pytest
from browser_site import EVIL, Site, forever

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed", exc_type=ImportError)
pytestmark = [
    pytest.mark.ecosystem,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: set CHROMIUM=/path/to/it"),
]

FLAGS = (
    "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
).split()
PAGES = [
    *("./", "jobs", "jobs?status=running", "jobs?status=queued&order=next", "jobs?status=failed", "job?id=1"),
    *("job?id=3", "groups", "names", "loop", "tree", "events", "health", "fleet", "actions", "settings"),
    *("job?id=nobody", "jobs?name=nothing"),
]
REFUSED = {"job?id=nobody": 404}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(params=["root", "mounted", "proxy"])
def each_site(request):
    with Site(request.param) as site:
        yield site


@pytest.fixture
def site():
    with Site() as site:
        yield site


class Visit:
    """A tab whose every complaint is written down."""

    def __init__(self, browser, site, **options):
        self.site, self.found = site, []
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        self.page = self.context.new_page()
        self.page.add_init_script(
            "addEventListener('securitypolicyviolation', e => console.error('CSP ' + e.blockedURI))"
        )
        self.page.on("console", lambda message: message.type == "error" and self.found.append(message.text))
        self.page.on("pageerror", lambda error: self.found.append(str(error)))
        self.page.on("request", self.check)

    def check(self, request):
        ours, asked = urlsplit(self.site.url), urlsplit(request.url)
        if asked.netloc != ours.netloc or not asked.path.startswith(ours.path):
            self.found.append(f"a request elsewhere: {request.url}")

    def go(self, address):
        answer = self.page.goto(self.site.url + address.removeprefix("./"))
        assert answer.status == REFUSED.get(address, 200), address
        return self.page

    def close(self, but=()):
        self.context.close()
        assert [one for one in self.found if not any(word in one for word in but)] == []


@pytest.fixture
def visit(browser):
    visits = []

    def begin(site, **options):
        visits.append(Visit(browser, site, **options))
        return visits[-1]

    yield begin
    for one in visits:
        one.close(but=("status of 404", "status of 409", "ERR_FAILED"))


def test_every_page_loads_under_every_prefix(each_site, visit):
    """At the root, mounted, and behind a proxy that strips a prefix: no violation, no request elsewhere, no 404."""
    tab = visit(each_site)
    statuses = []
    tab.page.on("response", lambda answer: statuses.append((answer.status, answer.url)))
    for address in PAGES:
        page = tab.go(address)
        assert page.title() != "owned"
        assert "›" not in page.title()
        page.wait_for_function("document.documentElement.classList.contains('js')")
        assert page.evaluate("document.scripts.length") == 1
        for link in page.locator("header nav a").all()[:1]:
            assert link.evaluate("node => node.href").startswith(each_site.url)
    assert [row for row in statuses if row[0] >= 400 and "nobody" not in row[1]] == []


@pytest.mark.parametrize("width", [320, 1280])
def test_a_megabyte_is_cut_before_it_is_sent(visit, width):
    """Names, groups, labels and errors of 1 MB, with a script, NUL and marks of direction: pages are small, and fit."""
    with Site(evil=EVIL + "long" * 2**18) as site:
        tab = visit(site, viewport={"width": width, "height": 800})
        for address in PAGES:
            page = tab.go(address)
            page.wait_for_function("document.documentElement.classList.contains('js')")
            assert page.title() != "owned"
            assert page.evaluate("document.documentElement.outerHTML.length") < 200_000, address
            assert page.evaluate("document.documentElement.scrollWidth") <= width, address
            assert page.evaluate("document.scripts.length") == 1
        page = tab.go("./")
        page.wait_for_selector("#live.on")  # frames come, too
        tab.context.close()


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(site, visit, width, scheme):
    """At 320 and 1280 px nothing sticks out; each text has a contrast of 4.5; each field and button has a name."""
    tab = visit(site, viewport={"width": width, "height": 800}, color_scheme=scheme)
    for address in PAGES:
        page = tab.go(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address
        assert page.evaluate(WEAK) == [], address
        assert page.evaluate(NAMELESS) == [], address


WEAK = """() => {
  const rgb = (text) => { const c = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    c.fillStyle = text; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = (node) => { for (let at = node; at; at = at.parentElement) {
    const color = rgb(getComputedStyle(at).backgroundColor); if (color[3] > 200) return color; }
    return [255, 255, 255]; };
  const weak = new Set();
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some(one => one.nodeType === 3 && one.data.trim());
    if (!own || !node.checkVisibility() || node.closest("dialog, svg, option")) continue;
    const [a, b] = [light(rgb(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) weak.add(`${node.tagName}.${node.className} ${ratio.toFixed(2)} ${node.textContent.slice(0, 30)}`);
  }
  return [...weak];
}"""
NAMELESS = """() => [...document.querySelectorAll("input:not([type=hidden]), select, button, a, svg")]
  .filter(node => node.checkVisibility() && !(node.labels?.length || node.getAttribute("aria-label")
    || node.textContent.trim())).map(node => node.outerHTML.slice(0, 120))"""


def test_numbers_stay_fresh_and_rows_stay_where_they_are(site, visit):
    """Cells are patched in place; rows are neither moved nor taken away; what is new is counted, and shown if asked."""
    page = visit(site).go("./")
    page.wait_for_selector("#live.on")
    rows = page.locator("#running tr").all_inner_texts()
    before = page.locator("#running tr td[data-cell=seconds]").first.inner_text()
    queued = page.locator("[data-live='numbers.queued']").inner_text()
    page.wait_for_function(
        "text => document.querySelector('#running td[data-cell=seconds]').innerText !== text", arg=before
    )

    async def change():
        await site.pool.cancel(1)
        site.pool.resize(5)

    site.call(change)
    page.wait_for_selector("#running tr.over")
    page.wait_for_selector(".new[data-new=running]:not([hidden])")
    assert page.locator(".new[data-new=running]").inner_text() == "2 new: show"
    after = page.locator("#running tr").all_inner_texts()
    assert [row.split()[0] for row in after] == [row.split()[0] for row in rows]
    page.wait_for_function("n => document.querySelector('[data-live=\"numbers.queued\"]').innerText !== n", arg=queued)
    page.click(".new[data-new=running] a")
    page.wait_for_selector("#running tr:not(.over)")
    assert page.locator("#running tr.over").count() == 0


def test_what_is_old_is_grey(site, visit):
    """Without a frame for 3 s the numbers are grey and the head says how old they are; then they are live again."""
    tab = visit(site)
    page = tab.page
    page.clock.install()
    page.route("**/events?*", lambda route: route.abort())
    tab.go("./")
    page.clock.run_for(4500)
    page.wait_for_selector("body.stale")
    assert re.fullmatch(r"stale, [3-9]\.\d s", page.locator("#live").inner_text())
    assert float(page.locator("[data-live]").nth(2).evaluate("node => getComputedStyle(node).opacity")) < 1
    page.unroute("**/events?*")
    page.clock.run_for(6000)
    page.clock.resume()
    page.wait_for_selector("#live.on")
    assert page.locator("body.stale").count() == 0


def test_nobody_is_told_what_nobody_sees(site, visit):
    """A hidden tab closes its stream, a visible one opens it again; holding does the same."""
    page = visit(site).go("./")
    page.wait_for_selector("#live.on")
    hubs = "async () => (await fetch('api/v1/pools/mail')).status"
    assert page.evaluate(hubs) == 200
    closed = []
    page.on("requestfailed", lambda request: "events" in request.url and closed.append(request))
    page.on("requestfinished", lambda request: "events" in request.url and closed.append(request))
    page.evaluate(
        """() => { Object.defineProperty(document, "hidden", {value: true, configurable: true});
        document.dispatchEvent(new Event("visibilitychange")); }"""
    )
    with page.expect_request("**/events?*"):
        page.evaluate(
            """() => { Object.defineProperty(document, "hidden", {value: false, configurable: true});
            document.dispatchEvent(new Event("visibilitychange")); }"""
        )
    assert len(closed) == 1
    page.keyboard.press("Space")
    page.wait_for_function("document.getElementById('live').innerText === 'held'")
    with page.expect_request("**/events?*"):
        page.keyboard.press("Space")


def test_a_dialog_names_the_verb_and_the_number(site, visit):
    """Ticked jobs are cancelled after a dialog that says what and how many; leaving it does nothing."""
    page = visit(site).go("jobs?status=queued&order=next")
    assert page.locator("tbody tr").count() == 50
    for place in (0, 1, 2):
        page.locator("input[name=ids]").nth(place).check()
    page.click("text=Cancel those ticked")
    page.wait_for_selector("dialog#ask[open]")
    assert page.locator("dialog#ask h1").inner_text() == "Cancel 3 jobs?"
    page.click("dialog#ask a.back")
    page.wait_for_selector("dialog#ask[open]", state="detached")
    assert site.pool.statistics().cancelled == 0
    page.click("text=Cancel those ticked")
    page.click("dialog#ask button.danger")
    page.wait_for_selector(".said")
    assert "cancel 3 jobs" in page.locator(".said").inner_text()
    assert "status=queued" in page.url
    assert site.pool.statistics().cancelled == 3


def test_without_a_script_the_page_asks(site, visit):
    """Script off: links, forms and a page in place of the dialog; times are UTC."""
    page = visit(site, java_script_enabled=False).go("jobs?status=queued&order=next")
    page.click("text=Cancel all that match")
    assert page.locator("h1").inner_text() == "Cancel 68 jobs?"
    page.click("main button.danger")
    assert "cancel 68 jobs" in page.locator(".said").inner_text()
    page.click("nav >> text=Overview")
    page.click("text=Pause")
    assert "paused True" in page.locator(".said").inner_text()
    page.click("text=Resume")
    page.fill("input[name=size]", "9")
    page.click("main button >> text=Set")
    assert site.pool.size == 9
    assert "Times are UTC" in page.locator("footer").inner_text()


def test_keys_are_enough(site, visit):
    """`/` goes to the filter, `?` lists the keys, `g` and a letter change the page, Tab reaches all, Escape closes."""
    page = visit(site).go("jobs")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "filter"
    page.keyboard.type("waits 7")
    page.keyboard.press("Enter")
    page.wait_for_url("**name=waits*")
    assert page.locator("tbody tr").count() == 1
    page.keyboard.press("?")
    page.wait_for_selector("dialog#keys[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog#keys[open]", state="detached")
    page.keyboard.press("g")
    with page.expect_navigation():
        page.keyboard.press("t")
    assert page.url.endswith("/tree?pool=mail")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"


def test_times_are_the_readers_own(site, visit):
    """A moment is UTC in the page, and shown in the reader's zone, which is named."""
    page = visit(site, timezone_id="Asia/Kathmandu").go("job?id=3")
    shown, utc = page.locator("dd time").first.evaluate("node => [node.innerText, node.title]")
    assert utc.endswith(" UTC")
    assert shown != utc.removesuffix(" UTC")
    assert int(shown[-5:-3]) == (int(utc[-9:-7]) + 45) % 60
    assert re.search("Asia/Kath?mandu", page.locator("footer").inner_text())


def test_the_script_writes_as_the_server_does(site, visit):
    """Numbers and durations look the same before and after the first frame."""
    from aiopool.web import _words

    page = visit(site).go("settings")
    source = page.evaluate("async () => (await fetch(document.querySelector('script').src)).text()")
    lines = source[source.index("const HIDDEN") : source.index("const write")]
    values = [None, 0, 0.0004, 0.003, 0.0123, 0.4, 0.9996, 1, 3.21, 59.94, 59.96, 61, 3599.7, 3661, 90000, 1234567]
    found = page.evaluate(f"values => {{ {lines} return values.map(x => [seconds(x), number(x), rate(x)]); }}", values)
    assert found == [[_words.seconds(x), _words.number(x), _words.rate(x)] for x in values]
    cleaned = page.evaluate(f"text => {{ {lines} return clean(text); }}", EVIL)
    assert cleaned == _words.clean(EVIL)


def test_a_page_that_is_looked_at_for_long_costs_the_same(site, visit):
    """Many frames later the page has as many nodes as before: nothing is added but what is asked for."""
    page = visit(site).go("./")
    page.wait_for_selector("#live.on")
    page.wait_for_function("document.querySelectorAll('#charts path').length > 0")
    before = page.evaluate("document.querySelectorAll('*').length")
    page.evaluate(
        """() => new Promise(done => { let n = 0; const live = document.getElementById('running');
        new MutationObserver(() => { if (++n > 3) done(); })
          .observe(live, {subtree: true, childList: true, characterData: true}); })"""
    )
    assert abs(page.evaluate("document.querySelectorAll('*').length") - before) <= 8


def test_new_events_are_counted(site, visit):
    """The events page says how many have come since, and moves nothing."""
    page = visit(site).go("events")
    page.reload()

    async def more():
        for _ in range(3):
            await site.pool.cancel((await site.pool.with_options(name="new").submit(forever)).id)
        await asyncio.sleep(0)

    site.call(more)
    page.wait_for_selector(".new[data-new=events]:not([hidden])")
    page.click(".new[data-new=events] a")
    page.wait_for_selector("#events tr >> text=new")
