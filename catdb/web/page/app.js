// The page: which view an address is, the steps of the history, and what is polled while it is looked at.

import { Refused, get } from "./api.js";
import { receive } from "./giving.js";
import { close, dismiss, enlarge } from "./large.js";
import { address, h, trouble } from "./parts.js";
import { answer, categories, category, copies, enginesState, failures, home } from "./views.js";
import { brief, count } from "./words.js";

const POLL = 2000; // milliseconds
const STILL = 150; // milliseconds without scrolling, after which it is kept how far down one is

const $ = (id) => document.getElementById(id);
const main = $("main");
let showing = new AbortController();
let known = null; // what /api/status last said
let drawn = null; // the version of the database that is shown
let at = null; // the address of the view that is shown; null while it is drawn, and where it could not be

const state = () => Object.fromEntries(new URLSearchParams(location.search));
const say = (words) => ($("said").textContent = words);

/** The address of a view, whether or not an image is shown large above it. */
const beneath = (values) => address({ ...values, show: null });

const views = new Map([
  ["category", [category, "categories"]],
  ["categories", [categories, "categories"]],
  ["duplicates", [copies, "duplicates"]],
  ["failures", [failures, "failures"]],
]);

/** What fills the page for an address, and which of the views in its head that is. */
function view({ view, image, upload }) {
  if (image || upload) return [answer, ""];
  return views.get(view) ?? [home, ""];
}

let [asked, heard] = [0, 0];

async function status(signal) {
  const turn = ++asked;
  const found = await get("status", {}, signal);
  if (turn > heard) [heard, known] = [turn, found];
  return found;
}

/** Show what the address says, as far down as one was when it was left. */
async function draw({ focus = false } = {}) {
  showing.abort();
  showing = new AbortController();
  const { signal } = showing;
  close();
  $("refused")?.remove();
  const values = state();
  at = null;
  const [fill, place] = view(values);
  for (const link of document.querySelectorAll("nav a")) {
    const own = new URL(link.href).searchParams.get("view") ?? "";
    if (own === place && fill !== answer) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  main.setAttribute("aria-busy", "true");
  const { scroll = 0, shown = 0 } = history.state ?? {};
  try {
    const words = await fill(main, values, { signal, shown, status, change, say });
    if (signal.aborted) return;
    at = beneath(values);
    drawn = known?.version ?? null;
    document.title = `${words} · catdb`;
    say(words);
    scrollTo(0, scroll);
    large();
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof Refused)) console.error(error);
    main.replaceChildren(trouble(error), h("p", { class: "middle" }, remedy(error, values)));
    document.title = "catdb";
  } finally {
    if (!signal.aborted) main.removeAttribute("aria-busy");
  }
  if (focus && !main.contains(document.activeElement) && !$("detail").open) main.focus({ preventScroll: true });
}

/** What can be done where a view could not be shown: what is not there, or no image, is so the next time, too. */
function remedy({ status }, { upload }) {
  if (![404, 413, 415, 422].includes(status)) return h("button", { type: "button", onclick: () => draw({ focus: true }) }, "Try again");
  if (upload) return h("button", { type: "button", class: "choose" }, "Choose another image");
  return h("a", { class: "button", href: "/" }, "Look through the images");
}

// --- the steps of the history: what each one is of is in its address, where one was in it is in its state ---------------

/** Keep in this step where one is, for when one comes back to it. */
function keep() {
  if (at === null) return; // one is not there yet
  const shown = Number(main.querySelector("[data-shown]")?.dataset.shown ?? 0);
  history.replaceState({ ...history.state, scroll: scrollY, shown }, "");
}

/** Go to a view; the browser's way back leads to the one before. */
function go(values, { scroll = 0 } = {}) {
  keep();
  history.pushState({ scroll }, "", address(values));
  scrollTo(0, scroll);
  draw({ focus: true });
}

/** Change how the view that is shown is asked for. */
const change = (values) => go({ ...state(), ...values }, { scroll: scrollY });

/** Show the image large that the address names, if it names one. */
function large() {
  const { show } = state();
  if (show) enlarge(show, { open, leave });
  else dismiss();
}

/** Show an image large, as a step of its own, or in the place of the one that is shown large. */
function open(id) {
  const to = address({ ...state(), show: id });
  keep();
  if (state().show) history.replaceState(history.state, "", to);
  else history.pushState({ ...history.state, above: true }, "", to);
  large();
}

function leave() {
  dismiss();
  if (history.state?.above) history.back();
  else history.replaceState(history.state, "", beneath(state())); // one came here by this address
}

history.scrollRestoration = "manual"; // the images come later than the browser would scroll
let still = 0;
addEventListener("scroll", () => {
  clearTimeout(still);
  still = setTimeout(keep, STILL);
});
addEventListener("pagehide", keep);
addEventListener("popstate", () => (beneath(state()) === at ? large() : draw())); // "#main" leads to no other view

// --- what is done with the page -----------------------------------------------------------------------------------------

document.addEventListener("click", (event) => {
  const card = event.target.closest?.(".card .more")?.closest(".card");
  if (card) open(card.dataset.id);
  const link = event.target.closest?.("a[href]");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const to = new URL(link.href);
  if (to.origin !== location.origin || to.pathname !== "/" || to.hash) return;
  event.preventDefault();
  go(Object.fromEntries(to.searchParams));
});
$("detail").addEventListener("click", (event) => event.target === $("detail") && leave());
$("detail").addEventListener("cancel", (event) => {
  event.preventDefault();
  leave();
});
receive((upload) => {
  const { mode, k } = state();
  go({ upload, mode, k });
});

const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
const toldTheme = () => $("theme").setAttribute("aria-pressed", String(isDark()));
dark.addEventListener("change", toldTheme);
$("theme").addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // It holds for this page, then.
  }
  toldTheme();
});
toldTheme();

// --- what changes by itself ---------------------------------------------------------------------------------------------

function tell() {
  const watched = known.watcher ? h("span", { class: "live", role: "img", "aria-label": "kept up to date", title: `kept up to date by ${known.watcher}` }) : null;
  const words = count(known.images, "image");
  if ($("count").textContent !== words || Boolean($("count").querySelector(".live")) !== Boolean(watched)) {
    $("count").replaceChildren(...[watched, words].filter(Boolean));
  }
  const link = document.querySelector('nav a[href$="failures"]');
  link.replaceChildren("Failures", ...(known.failed ? [" ", h("span", { class: "number" }, brief(known.failed))] : []));
  $("banner").hidden = true;
  drawn ??= known.version;
  const [fill] = view(state());
  const isNews = drawn !== null && known.version !== drawn && fill !== answer && fill !== copies;
  if (isNews && fill === home && !main.querySelector(".card")) draw(); // there was nothing, and now there is
  else if (isNews && !$("news")) main.prepend(h("p", { class: "middle", id: "news" }, h("button", { type: "button", class: "new", onclick: () => draw({ focus: true }) }, "The database has changed: refresh the view")));
  if ($("engine")) $("engine").textContent = enginesState(known.engine);
}

async function poll() {
  if (!document.hidden) {
    try {
      await status();
      tell();
    } catch (error) {
      $("banner").textContent = error.status === 401 ? "This page needs the token again: open the address that catdb serve printed." : `${error.message} Trying again…`;
      $("banner").hidden = false;
    }
  }
  setTimeout(poll, POLL);
}

document.addEventListener("visibilitychange", () => !document.hidden && status().then(tell, () => {}));
draw();
poll();
