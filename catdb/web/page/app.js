// The page: which view an address is, what can be given to search with, and what is polled while it is looked at.

import { Refused, get } from "./api.js";
import { address, h } from "./parts.js";
import { answer, categories, category, copies, failures, home, trouble, uploads } from "./views.js";
import { count, number } from "./words.js";

const POLL = 2000; // milliseconds
const LARGEST = 20 * 2 ** 20; // bytes of an upload; the server takes no more
const KEPT = 20; // uploads to which one can go back

const $ = (id) => document.getElementById(id);
const main = $("main");
let showing = new AbortController();
let known = null; // what /api/status last said
let drawn = null; // the version of the database that is shown
let last = 0; // upload
let at = null; // the query string that is shown

const state = () => Object.fromEntries(new URLSearchParams(location.search));
const say = (words) => ($("said").textContent = words);

function view({ view, image, upload }) {
  if (image || upload) return [answer, ""];
  return { category: [category, "categories"], categories: [categories, "categories"], duplicates: [copies, "duplicates"], failures: [failures, "failures"] }[view] ?? [home, ""];
}

async function status() {
  known = await get("status");
  return known;
}

/** Show what the address says. */
async function draw({ focus = false } = {}) {
  showing.abort();
  showing = new AbortController();
  const { signal } = showing;
  $("detail").close();
  at = location.search;
  const values = state();
  const [fill, place] = view(values);
  for (const link of document.querySelectorAll("nav a")) {
    const own = new URL(link.href).searchParams.get("view") ?? "";
    if (own === place && fill !== answer) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  main.setAttribute("aria-busy", "true");
  try {
    const words = await fill(main, values, { signal, status, choose: () => $("file").click(), go, say });
    if (signal.aborted) return;
    drawn = known?.version ?? null;
    document.title = `${words} · catdb`;
    say(words);
    if (focus) main.focus({ preventScroll: true });
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof Refused)) console.error(error);
    const again = h("button", { type: "button", onclick: () => draw() }, "Try again");
    main.replaceChildren(trouble(error), h("p", { class: "middle" }, again));
    document.title = "catdb";
  } finally {
    if (!signal.aborted) main.removeAttribute("aria-busy");
  }
}

/** Go to a view; the browser's way back leads to the one before. */
function go(values) {
  history.pushState(null, "", address(values));
  scrollTo(0, 0);
  draw({ focus: true });
}

/** Say above what is shown why that will not do, in the place of what was said so before. */
function refuse(status, words) {
  $("refused")?.remove();
  const said = trouble(new Refused(status, words));
  said.id = "refused";
  main.prepend(said);
}

/** Search with a file that was dropped, pasted or chosen. */
function give(file) {
  if (!file) return;
  if (file.size > LARGEST) {
    refuse(413, `${file.name || "The image"} has ${number(Math.ceil(file.size / 1e6))} MB; at most 20 MB are taken.`);
    return;
  }
  const name = String(++last);
  uploads.set(name, { file, name: file.name || "pasted image", url: URL.createObjectURL(file) });
  if (uploads.size > KEPT) {
    const [oldest, { url }] = uploads.entries().next().value;
    URL.revokeObjectURL(url);
    uploads.delete(oldest);
  }
  const { mode, k } = state();
  go({ upload: name, mode, k });
}

const nothing = () => refuse(415, "That holds no image.");

const imageOf = (items) => [...items].map((item) => (item.kind === "file" ? item.getAsFile() : null)).find((file) => file) ?? null;

// --- what is done with the page -----------------------------------------------------------------------------------------

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const to = new URL(link.href);
  if (to.origin !== location.origin || to.pathname !== "/" || to.hash) return;
  event.preventDefault();
  go(Object.fromEntries(to.searchParams));
});
addEventListener("popstate", () => location.search !== at && draw()); // "#main" leads to no other view

$("file").addEventListener("change", (event) => {
  give(event.target.files[0]);
  event.target.value = "";
});
document.addEventListener("paste", (event) => {
  if (event.target.closest?.("input")) return;
  const file = imageOf(event.clipboardData.items);
  if (file) give(file);
  else nothing();
});

let over = 0;
const isFile = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragenter", (event) => isFile(event) && (over++, ($("drop").hidden = false)));
document.addEventListener("dragleave", (event) => isFile(event) && --over <= 0 && ((over = 0), ($("drop").hidden = true)));
document.addEventListener("dragover", (event) => isFile(event) && event.preventDefault());
document.addEventListener("drop", (event) => {
  if (!isFile(event)) return;
  event.preventDefault();
  over = 0;
  $("drop").hidden = true;
  const file = imageOf(event.dataTransfer.items);
  if (file) give(file);
  else nothing();
});

$("detail").addEventListener("click", (event) => event.target === $("detail") && $("detail").close());

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

let engine = null;

function tell() {
  const watched = known.watcher ? h("span", { class: "live", role: "img", "aria-label": "kept up to date", title: `kept up to date by ${known.watcher}` }) : null;
  const words = count(known.images, "image");
  if ($("count").textContent !== words || Boolean($("count").querySelector(".live")) !== Boolean(watched)) {
    $("count").replaceChildren(...[watched, words].filter(Boolean));
  }
  const link = document.querySelector('nav a[href$="failures"]');
  link.replaceChildren("Failures", ...(known.failed ? [" ", h("span", { class: "number" }, number(known.failed))] : []));
  $("banner").hidden = true;
  drawn ??= known.version;
  const [fill] = view(state());
  const isNews = drawn !== null && known.version !== drawn && fill !== answer && fill !== copies;
  if (isNews && fill === home && !main.querySelector(".card")) draw(); // there was nothing, and now there is
  else if (isNews && !$("news")) main.prepend(h("p", { class: "middle", id: "news" }, h("button", { type: "button", class: "new", onclick: () => draw() }, "The database has changed: show it anew")));
  if (engine === "starting" && known.engine.state !== engine) {
    if (known.engine.state === "ready") $("engine")?.remove();
    else if (fill === home) draw();
  }
  engine = known.engine.state;
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
