// One image, large, above the view that it was opened from.

import { get } from "./api.js";
import { address, chips, h, picture, trouble } from "./parts.js";
import { base, show } from "./words.js";

const dialog = document.getElementById("detail");
const main = document.getElementById("main");
let looking = new AbortController();
let list = null; // that the image stands in; an image may stand in several

/** Return the card of an image, in the list that was last led through if it stands there. */
function cardOf(id) {
  const cards = [...main.querySelectorAll(".card[data-id]")].filter((card) => card.dataset.id === String(id));
  return cards.find((card) => card.parentElement === list) ?? cards[0];
}

/** The number of the image so many places after another, if there is one. */
export const beside = (id, places) => (places < 0 ? cardOf(id)?.previousElementSibling : cardOf(id)?.nextElementSibling)?.dataset.id;

/** Close it, and wait for nothing that was to be shown in it. */
export function close() {
  looking.abort();
  dialog.close();
}

/** Show an image; `step(places)` is called to show the one so many places after it, `leave()` to close. */
export async function enlarge(id, { step, leave }) {
  looking.abort();
  looking = new AbortController();
  const { signal } = looking;
  const card = cardOf(id);
  list = card?.parentElement ?? null;
  let content;
  try {
    content = about(await get(`images/${encodeURIComponent(id)}`, {}, signal), { step, leave });
  } catch (error) {
    if (signal.aborted) return;
    content = [h("div", {}, trouble(error), h("button", { type: "button", onclick: leave }, "Close"))];
  }
  const held = dialog.open ? document.activeElement.textContent : null; // what is pressed again and again stays in focus
  dialog.replaceChildren(...content);
  dialog.onkeydown = ({ key }) => {
    if (key === "ArrowLeft") step(-1);
    if (key === "ArrowRight") step(1);
  };
  if (!dialog.open) {
    card?.querySelector(".more").focus(); // where the focus is again when it is closed
    dialog.showModal();
  }
  const again = [...dialog.querySelectorAll("button:enabled")].find((button) => button.textContent === held);
  (again ?? dialog.querySelector(".primary, button")).focus();
}

function about(known, { step, leave }) {
  const path = h("p", { class: "path" }, show(known.path));
  const said = h("span", { class: "faint", role: "status" });
  const button = (words, onclick, more = {}) => h("button", { type: "button", onclick, ...more }, words);
  return [
    picture(known, { side: 1600, class: "large", alt: `${show(base(known.path))}, large` }),
    h(
      "div",
      {},
      h("h2", {}, show(base(known.path)), " ", h("small", {}, `${known.width} × ${known.height}`)),
      path,
      chips(known.categories),
      h(
        "p",
        { class: "bar" },
        h("a", { class: "button primary", href: address({ image: known.id }) }, "Search with this"),
        button("Previous", () => step(-1), { disabled: !beside(known.id, -1) }),
        button("Next", () => step(1), { disabled: !beside(known.id, 1) }),
        button("Copy path", async () => (said.textContent = await copy(known.path, path))),
        said,
        button("Close", leave, { class: "close" }),
      ),
    ),
  ];
}

/** Copy a path, and return what to say of it. `place` is where it is shown. */
async function copy(path, place) {
  try {
    await navigator.clipboard.writeText(path);
    return "copied";
  } catch {
    // Over plain HTTP a browser has no clipboard to write to, but it copies what is selected.
    getSelection().selectAllChildren(place);
    return document.execCommand("copy") ? "copied" : "selected, to be copied with Ctrl+C";
  }
}
