// The pages work without this. With it, numbers stay fresh: cells are patched in place, and nothing is ever moved,
// replaced or spoken unasked. What comes from a program is only ever text (`textContent`).

const body = document.body;
const main = document.getElementById("main");
const live = document.getElementById("live");
const state = document.getElementById("state");
const STALE = 3000; // ms without a frame, from which on numbers are grey

document.documentElement.classList.add("js");

// -- words: as `_words.py` writes them --------------------------------------------------------------------------------

const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]/g;
const two = (n) => String(n).padStart(2, "0");
const clean = (text) => {
  const cut = text.length > 2000 ? `${text.slice(0, 2000)}… (${text.length.toLocaleString("en-US")} characters)` : text;
  return cut.replace(HIDDEN, (c) => `⟨${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
};
const rate = (x) => {
  if (x === null || x === undefined) return "–";
  if (x === 0) return "0";
  return x >= 100 ? Math.round(x).toLocaleString("en-US") : x.toFixed(x >= 1 ? 1 : 2);
};
const number = (x) => (x === null || x === undefined ? "–" : Number.isInteger(x) ? x.toLocaleString("en-US") : rate(x));
const seconds = (x) => {
  if (x === null || x === undefined) return "–";
  if (x < 0.9995) return `${(x * 1000).toFixed(x >= 0.01 || x === 0 ? 0 : 1)} ms`;
  if (x < 59.95) return `${x.toFixed(1)} s`;
  const n = Math.round(x);
  if (n < 3600) return `${Math.floor(n / 60)} m ${two(n % 60)} s`;
  if (n < 86400) return `${Math.floor(n / 3600)} h ${two(Math.floor((n % 3600) / 60))} m`;
  return `${Math.floor(n / 86400)} d ${two(Math.floor((n % 86400) / 3600))} h`;
};
const write = (node, text) => {
  if (node.textContent !== text) node.textContent = text;
};

// -- moments: the reader's own time, and the zone named ---------------------------------------------------------------

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "local time";
function localTimes(root) {
  for (const node of root.querySelectorAll("time[datetime]")) {
    const at = new Date(node.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const clock = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
    const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
    node.textContent = "date" in node.dataset || day !== today() ? `${day} ${clock}` : clock;
  }
}
function today() {
  const at = new Date();
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
}
localTimes(document);
document.getElementById("zone").textContent = zone === "UTC" ? "Times are UTC." : `Times are of ${zone}; in UTC when you point at them.`;

// Tables that are drawn as cards are tables still, for those who hear them.
for (const [tag, role] of [["table", "table"], ["thead", "rowgroup"], ["tbody", "rowgroup"], ["tr", "row"], ["td", "cell"], ["thead th", "columnheader"]])
  for (const node of document.querySelectorAll(tag)) node.setAttribute("role", role);

// -- frames -----------------------------------------------------------------------------------------------------------

let source = null;
let seen = performance.now();
let held = false;
let ending = false;

function patch(frame) {
  for (const node of document.querySelectorAll("[data-live]")) {
    const path = node.dataset.live;
    if (path === "state") continue;
    let value = path.split(".").reduce((at, key) => (at === null || at === undefined ? at : at[key]), frame);
    if (path === "live") value = frame.numbers.queued + frame.numbers.running + frame.numbers.scheduled;
    if (value === undefined) continue;
    write(node, node.dataset.as === "secs" ? seconds(value) : node.dataset.as === "rate" ? rate(value) : number(value));
  }
  if (state) {
    const word = frame.status === "open" && (frame.paused ?? frame.paused_by !== null) ? "paused" : frame.status;
    state.className = `state ${word}`;
    write(state, word);
  }
  if (frame.running) patchRows(frame);
  for (const node of document.querySelectorAll(".new[data-new=submitted]"))
    announce(node, frame.numbers.submitted - Number(node.dataset.count));
}

function patchRows(frame) {
  const running = new Map(frame.running.map((job) => [String(job.id), job]));
  const whole = frame.running.length >= frame.numbers.running; // else one that is not there may run nevertheless
  for (const row of document.querySelectorAll("[data-job]")) {
    const job = running.get(row.dataset.job);
    if (job) {
      running.delete(row.dataset.job);
      row.dataset.ran = "";
      for (const cell of row.querySelectorAll("[data-cell]")) {
        const name = cell.dataset.cell;
        if (name === "seconds") write(cell, seconds(job.seconds));
        else if (name === "status") {
          cell.className = `s s-${job.status}`;
          write(cell, job.status);
        } else if (job[name] !== null && job[name] !== undefined) write(cell, clean(String(job[name])));
      }
      const bar = row.querySelector("progress");
      if (bar && job.progress && typeof job.progress.fraction === "number") bar.value = job.progress.fraction;
    } else if (whole && ("ran" in row.dataset || row.parentNode.id === "running")) {
      row.classList.add("over");
    }
  }
  for (const node of document.querySelectorAll(".new[data-new=running]")) announce(node, running.size);
}

function announce(node, count) {
  node.hidden = count <= 0;
  if (count <= 0) return;
  if (!node.dataset.ready) {
    node.prepend(document.createTextNode(""));
    node.dataset.ready = "1";
  }
  node.firstChild.data = `${count.toLocaleString("en-US")} new: `;
}

function tell() {
  if (!live) return;
  const age = performance.now() - seen;
  const stale = !held && age > STALE;
  body.classList.toggle("stale", stale);
  live.className = `live ${stale ? "stale" : held ? "" : "on"}`;
  write(live, held ? "held" : stale ? `stale, ${seconds(age / 1000)}` : "live");
}

function open() {
  if (source || held || document.hidden || !body.dataset.stream) return;
  source = new EventSource(new URL(body.dataset.stream, document.baseURI));
  source.addEventListener("state", (event) => {
    seen = performance.now();
    ending = false;
    patch(JSON.parse(event.data));
    tell();
  });
  source.addEventListener("bye", () => { ending = true; });
  source.addEventListener("error", () => {
    // It comes back by itself, but for an answer that is no stream: then we ask again, later.
    if (source && source.readyState === EventSource.CLOSED) {
      source = null;
      setTimeout(open, 5000);
    }
  });
}
function close() {
  if (source) source.close();
  source = null;
}
function hold(on) {
  held = on;
  button.setAttribute("aria-pressed", String(held));
  write(button, held ? "Go on" : "Hold");
  if (held) close();
  else { seen = performance.now(); open(); }
  tell();
}
const button = document.createElement("button");
if (live && body.dataset.stream) {
  write(button, "Hold");
  button.type = "button";
  button.addEventListener("click", () => hold(!held));
  live.after(button);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) close();
    else { seen = performance.now(); open(); }
  });
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  setInterval(tell, 1000);
  open();
  tell();
}

// -- parts that the server draws anew: one question at a time, and none while nobody sees it -------------------------

async function fetchPage(address) {
  const answer = await fetch(address, { headers: { Accept: "text/html" } });
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}
const charts = document.querySelector("[data-refresh]");
const polled = document.querySelector(".new[data-poll]");
async function again() {
  try {
    if (!document.hidden && !held) {
      if (charts) {
        const fresh = (await fetchPage(location.href)).getElementById("charts");
        if (fresh) charts.replaceChildren(...fresh.children);
      }
      if (polled) {
        const fresh = (await fetchPage(polled.dataset.poll)).querySelector("[data-last]");
        if (fresh) announce(polled, Number(fresh.dataset.last) - Number(polled.dataset.count));
      }
    }
  } catch { /* the head says that it is stale */ }
  setTimeout(again, charts ? charts.dataset.refresh * 1000 : 3000);
}
if (charts || polled) setTimeout(again, charts ? charts.dataset.refresh * 1000 : 3000);

// -- buttons that ask first: the page that would ask, in a dialog ----------------------------------------------------

const ask = document.getElementById("ask");
document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.method !== "post" || form.id === "confirm" || form.dataset.plain) return;
  const pressed = event.submitter;
  if (!pressed || !pressed.closest(".danger")) return;
  event.preventDefault();
  const fields = new URLSearchParams(new FormData(form, pressed));
  try {
    const answer = await fetch(form.action, { method: "POST", body: fields, redirect: "follow" });
    if (answer.redirected) { location.assign(answer.url); return; }
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const found = page.querySelector("#confirm, .problem");
    if (!found) throw new Error("no answer");
    for (const node of found.querySelectorAll("h1")) node.id = "asked";
    if (found.id === "confirm") found.action = new URL(found.getAttribute("action"), answer.url);
    ask.replaceChildren(document.adoptNode(found));
    ask.setAttribute("aria-labelledby", "asked");
    const leave = ask.querySelector("a.back, .problem a");
    if (leave) leave.addEventListener("click", (click) => { click.preventDefault(); ask.close(); pressed.focus(); });
    ask.showModal();
    if (leave) leave.focus();
  } catch {
    form.dataset.plain = "1"; // without the dialog, the page asks
    form.requestSubmit(pressed);
  }
});

// -- ticks, keys, copies ----------------------------------------------------------------------------------------------

const head = document.querySelector("th.tick");
if (head) {
  const all = document.createElement("input");
  all.type = "checkbox";
  all.setAttribute("aria-label", "all on this page");
  all.addEventListener("change", () => {
    for (const one of document.querySelectorAll("input[name=ids]")) one.checked = all.checked;
  });
  head.append(all);
}

let go = -Infinity;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select, textarea, dialog[open]")) return;
  const key = event.key;
  if (performance.now() - go < 1500) {
    const link = document.querySelector(`header nav a[data-key="${CSS.escape(key)}"]`);
    go = -Infinity;
    if (link) { event.preventDefault(); link.click(); }
    return;
  }
  if (key === "g") go = performance.now();
  else if (key === "/") {
    const filter = document.getElementById("filter");
    if (filter) { event.preventDefault(); filter.focus(); filter.select(); }
  } else if (key === "?") document.getElementById("keys").showModal();
  else if (key === " " && !event.target.closest("button, summary, a") && body.dataset.stream) { event.preventDefault(); hold(!held); }
  else if (key === "r") location.reload();
});

for (const node of document.querySelectorAll("[data-copy]")) {
  node.hidden = false;
  node.addEventListener("click", async () => {
    const text = document.getElementById(node.dataset.copy);
    try {
      await navigator.clipboard.writeText(text.textContent);
      write(node, "Copied");
    } catch { // plain HTTP: no clipboard, so the text is selected
      getSelection().selectAllChildren(text);
      write(node, "Selected: press Ctrl C");
    }
  });
}
