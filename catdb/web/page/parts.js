// The pieces of which every view is made. Whatever comes from the server becomes text, never markup.

import { thumbnail } from "./api.js";
import { base, closer, folder, percent, show } from "./words.js";

/** Make an element. `on...` are listeners, what is null or false is left out, the rest are attributes. */
export function h(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

/** The address of a view: what it is, in the words of its query string. */
export function address(values) {
  const given = Object.entries(values).filter(([, value]) => value);
  return given.length ? `/?${new URLSearchParams(given)}` : "/";
}

/** A path, whose names stay in their order also where they are written from right to left. */
export function path(of, attributes = {}) {
  const names = show(of).split("/");
  const isolated = names.flatMap((name, place) => [...(place ? ["/", h("wbr")] : []), h("span", { dir: "ltr" }, name)]);
  return h("p", { class: "path", ...attributes }, isolated);
}

const LONG = 2.2; // times as long as wide: what is cut to the shape of a card shows next to nothing of it

function fit({ target }) {
  const { naturalWidth: width, naturalHeight: height } = target;
  target.classList.toggle("whole", Math.max(width / height, height / width) > LONG);
}

/** A picture of an image, or in its place that there is none. */
export function picture(image, { side = 320, alt = show(base(image.path)), ...more } = {}) {
  return h("img", {
    src: thumbnail(image.id, side),
    alt,
    decoding: "async",
    onload: fit,
    onerror: (event) => event.target.replaceWith(h("span", { class: "missing", role: "img", "aria-label": `${alt}: cannot be shown` }, "cannot be shown: the file is gone, or cannot be read")),
    ...more,
  });
}

/** An image as one of a grid: a link that searches with it, a button that shows it large, and lines beneath. */
export function card(image, lines, label) {
  const name = show(base(image.path));
  return h(
    "li",
    { class: "card", "data-id": image.id },
    h("a", { href: address({ image: image.id }), title: show(image.path), "aria-label": label ?? `Search with ${name}` }, picture(image, { loading: "lazy", alt: label ?? name })),
    h("button", { type: "button", class: "more", "aria-label": `Show ${name} large`, title: "Show large" }, "i"),
    lines,
    h("p", { class: "name", title: show(image.path) }, name),
    path(folder(image.path), { title: show(image.path) }),
  );
}

/** A match: how alike it is, what that means, and which categories it shares with the query. */
export function match(answer, found) {
  const own = new Set(answer.categories.map((category) => category.id));
  const shared = found.categories.filter((category) => own.has(category.id)).map((category) => category.name);
  const lines = [
    h("p", {}, h("strong", {}, found.similarity.toFixed(3)), " ", h("small", {}, `no. ${found.rank}`)),
    h("p", {}, closer(found.percentile, answer.ceiling)),
    h("p", {}, shared.length ? shared.join(", ") : "no category in common"),
  ];
  const label = `${show(base(found.path))}, ${found.categories[0]?.name ?? "no category"}, similarity ${found.similarity.toFixed(3)}`;
  return card(found, lines, label);
}

/** A grid of cards, through which the arrow keys lead. */
export const grid = (cards) => h("ol", { class: "grid", onkeydown: walk }, cards);

function walk(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: "up", ArrowDown: "down" }[event.key];
  if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
  const cards = [...event.currentTarget.children];
  const place = cards.indexOf(event.target.closest(".card"));
  const columns = cards.filter((one) => one.offsetTop === cards[0].offsetTop).length;
  const next = place + (step === "up" ? -columns : step === "down" ? columns : step);
  if (place < 0 || !cards[next]) return;
  event.preventDefault();
  cards[next].querySelector("a").focus();
}

/** Grey cards, while the real ones are waited for. */
export const waiting = (cards = 10) =>
  h("ol", { class: "grid waiting", "aria-hidden": "true" }, Array.from({ length: cards }, () => h("li", { class: "card" })));

/** A query's categories; each leads to its images, and restricts the search to itself. */
export function chips(categories, { only = null, restrict = null } = {}) {
  return h(
    "ul",
    { class: "chips", "aria-label": "Categories" },
    categories.map((category) =>
      h(
        "li",
        { class: "chip" },
        h("a", { href: address({ view: "category", category: category.id }), title: "Browse this category" }, category.name),
        h("small", {}, percent(category.probability)),
        restrict &&
          h(
            "button",
            {
              type: "button",
              "data-control": `only ${category.id}`,
              "aria-pressed": String(only === category.id),
              "aria-label": `Only ${category.name}`,
              title: "Search in this category only",
              onclick: () => restrict(only === category.id ? null : category.id),
            },
            "only",
          ),
      ),
    ),
  );
}

/** Say what went wrong, and what can be done. */
export function trouble(error) {
  const remedies = {
    0: "Is catdb serve still running?",
    401: "Open the address that catdb serve printed, with its token.",
    413: "Try a smaller copy of it.",
    415: "JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF can be read, and HEIC if catdb is installed with its extra for that.",
  };
  const said = /[.!?]$/.test(error.message) ? error.message : `${error.message}.`;
  return h("p", { class: "error", role: "alert" }, [said, remedies[error.status]].filter(Boolean).join(" "));
}
