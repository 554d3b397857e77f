// One image, large, above the view that it was opened from.

import { get } from "./api.js";
import { grow, grows } from "./paging.js";
import { address, chips, h, path, picture, trouble } from "./parts.js";
import { base, show } from "./words.js";

const dialog = document.getElementById("detail");
const [spoken, content] = dialog.children; // who cannot see is told by the former, which never is another element
const main = document.getElementById("main");
let looking = new AbortController();
let current = null; // the number of the image that is shown, or is going to be
let list = null; // that it stands in; an image may stand in several

/** Return the card of the image that is shown, in the list that was last led through if it stands there. */
function card() {
  const cards = [...main.querySelectorAll(".card[data-id]")].filter(({ dataset }) => dataset.id === current);
  return cards.find((one) => one.parentElement === list) ?? cards[0];
}

/** The number of the image so many places after the one that is shown, if it has been loaded. */
const beside = (places) => card()?.[places < 0 ? "previousElementSibling" : "nextElementSibling"]?.dataset.id;

/** Close it, and wait for nothing that was to be shown in it. */
export function close() {
  looking.abort();
  dialog.close();
}

/** Close it where its view stays: one goes on from the image that was seen last. */
export function dismiss() {
  const last = dialog.open ? card() : null;
  close();
  last?.querySelector(".more").focus();
}

/** Show an image; `open(id)` is called to show another one in its place, `leave()` to close. */
export async function enlarge(id, { open, leave }) {
  looking.abort();
  looking = new AbortController();
  const { signal } = looking;
  current = id;
  list = card()?.parentElement ?? null;
  const step = (places) => go(places, open);
  let [name, parts] = ["One image", null];
  try {
    const known = await get(`images/${encodeURIComponent(id)}`, {}, signal);
    [name, parts] = [show(base(known.path)), about(known, { step, leave })];
  } catch (error) {
    if (signal.aborted) return;
    parts = [h("div", {}, trouble(error), bar({ step, leave }))];
  }
  const held = dialog.open ? document.activeElement.textContent : null; // what is pressed again and again stays in focus
  content.replaceChildren(...parts);
  dialog.setAttribute("aria-label", name);
  dialog.onkeydown = ({ key, altKey, ctrlKey, metaKey, shiftKey }) => {
    if (altKey || ctrlKey || metaKey || shiftKey) return; // the browser's own: Alt and an arrow lead through its history
    if (key === "ArrowLeft") step(-1);
    if (key === "ArrowRight") step(1);
  };
  spoken.textContent = dialog.open ? name : ""; // when it opens its name is said anyway
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  const again = [...dialog.querySelectorAll("button:enabled")].find((button) => button.textContent === held);
  (again ?? dialog.querySelector(".primary, button:enabled")).focus({ preventScroll: true });
}

/** Go to the image so many places after the one that is shown; where the list ends for now, have it grow first. */
async function go(places, open) {
  const found = beside(places);
  if (found) return open(found);
  if (places < 0 || !grows(list)) return;
  const { signal } = looking;
  say("loading");
  try {
    await grow(list);
  } catch (error) {
    if (!signal.aborted) say(trouble(error));
    return;
  }
  if (!signal.aborted) open(beside(places) ?? current); // which was the last one after all, and is shown anew as such
}

/** Say something beneath the image: words, or what went wrong. */
const say = (said) => content.querySelector("[role=status]")?.replaceChildren(said);

function about(known, how) {
  const place = path(known.path);
  return [
    picture(known, { side: 1600, class: "large", alt: `${show(base(known.path))}, large` }),
    h(
      "div",
      {},
      h("h2", {}, h("span", { class: "name" }, show(base(known.path))), h("small", {}, `${known.width} × ${known.height}`)),
      place,
      chips(known.categories),
      bar(how, h("a", { class: "button primary", href: address({ image: known.id }) }, "Search with this"), button("Copy path", async () => say(await copy(known.path, place)))),
    ),
  ];
}

const button = (words, onclick, more = {}) => h("button", { type: "button", onclick, ...more }, words);

const bar = ({ step, leave }, first = null, last = null) =>
  h(
    "div",
    { class: "bar" },
    first,
    button("Previous", () => step(-1), { disabled: !beside(-1) }),
    button("Next", () => step(1), { disabled: !beside(1) && !grows(list) }),
    last,
    h("div", { class: "faint", role: "status" }),
    button("Close", leave, { class: "close" }),
  );

/** Copy a path, and return what to say of it. `place` is where it is shown. */
async function copy(words, place) {
  try {
    await navigator.clipboard.writeText(words);
    return "copied";
  } catch {
    // Over plain HTTP a browser has no clipboard to write to, but it copies what is selected.
    getSelection().selectAllChildren(place);
    return document.execCommand("copy") ? "copied" : "selected: press Ctrl+C to copy it";
  }
}
