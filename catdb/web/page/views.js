// The views: each fills the main part of the page for one address, and may be left before it is done: `signal` says so.

import { duplicates, get, upload } from "./api.js";
import { uploads } from "./giving.js";
import { grow, grows, paged } from "./paging.js";
import { address, card, chips, grid, h, match, path, picture, waiting } from "./parts.js";
import { base, count, number, percent, searched, show, size } from "./words.js";

const MODES = [
  ["", "Own categories", {}, "Search the image's own categories: fast, but misses about one in eight of the nearest"],
  ["recall", "Recall 0.95", { recall: 0.95 }, "Search as far as it takes to find 95 % of the ten nearest"],
  ["exact", "Exact", { exact: true }, "Compare with every image"],
];
const COUNTS = [10, 20, 50, 100, 200];

// --- looking through ---------------------------------------------------------------------------------------------------

/** A page of images after another, as far as one goes on; the next one comes by itself into sight. */
async function images(values, each, { signal, shown }) {
  const list = grid([]);
  let next = null;
  const load = async (limit) => {
    const found = await get("images", { ...values, after: next, limit }, signal);
    list.append(...found.images.map((image) => card(image, each(image))));
    next = found.next;
    return next !== null;
  };
  const end = await paged(list, load, { page: 60, shown, most: 500 });
  const further = async (seen) => {
    if (!seen.at(-1).isIntersecting || !grows(list) || end.querySelector(".error")) return;
    try {
      await grow(list);
    } catch {
      return; // it is said beneath the list
    }
    sight.unobserve(end); // on a tall screen it is in sight still, which is told of anew only so
    sight.observe(end);
  };
  const sight = new IntersectionObserver(further, { rootMargin: "600px" });
  sight.observe(end);
  signal.addEventListener("abort", () => sight.disconnect(), { once: true });
  return [list, end];
}

/** Where to begin: ask for an image to search with, and show all that there are. */
export async function home(main, state, { signal, shown, status }) {
  const known = await status(signal);
  if (!known.images) {
    main.replaceChildren(
      h(
        "section",
        { class: "empty", "aria-labelledby": "nothing" },
        h("h1", { id: "nothing" }, "No images yet"),
        h("p", {}, "Add a folder of images: ", h("code", {}, "catdb build FOLDER")),
        h("p", {}, "or add one and keep it up to date: ", h("code", {}, "catdb watch FOLDER")),
        h("p", {}, "The images appear here as they come in."),
        known.failed ? h("p", {}, h("a", { href: "/?view=failures" }, `${count(known.failed, "file")} could not be read`)) : null,
      ),
    );
    return "no images yet";
  }
  const list = h("section", { "aria-label": "All images" }, waiting());
  main.replaceChildren(asking(known.engine), list);
  const found = await images({}, () => [], { signal, shown });
  list.replaceChildren(h("h1", {}, "All images ", h("small", {}, number(known.images))), ...found);
  return count(known.images, "image");
}

function asking(engine) {
  const [give, click] = matchMedia("(hover: none)").matches ? ["Choose", "tap"] : ["Drop", "click"];
  return h(
    "section",
    { class: "ask", "aria-label": "Search" },
    h("p", { class: "lead" }, `${give} a photograph to see what resembles it`),
    h("button", { type: "button", class: "primary choose" }, "Choose an image"),
    h("span", {}, `or paste one, or ${click} any image below`),
    h("p", { id: "engine" }, enginesState(engine)),
  );
}

/** What is to be said of the engine where one may search with a file. */
export const enginesState = ({ state, reason }) =>
  ({
    starting: "The engine is starting; if you drop an image now, the search starts as soon as it is ready.",
    failed: `You can search only with images of the database: ${reason}`,
    ready: "",
  })[state];

export async function category(main, state, { signal, shown }) {
  const all = (await get("categories", {}, signal)).categories;
  const known = all.find((one) => one.id === state.category) ?? { id: state.category, name: state.category, images: 0 };
  main.replaceChildren(
    h("p", {}, h("a", { href: "/?view=categories" }, "All categories")),
    h("h1", {}, known.name, " ", h("small", {}, count(known.images, "image"))),
    h("p", { class: "faint" }, "Each with the probability that the network gives this category, the most likely first."),
  );
  const each = (image) => h("p", {}, percent(image.probability));
  main.append(...(await images({ category: state.category }, each, { signal, shown })));
  return `${known.name}: ${count(known.images, "image")}`;
}

export async function categories(main, state, { signal, say }) {
  const all = (await get("categories", {}, signal)).categories;
  const most = Math.max(1, ...all.map((one) => one.images));
  const entries = all.map((one) => {
    const link = h(
      "a",
      { href: address({ view: "category", category: one.id }) },
      h("span", {}, one.name),
      h("span", {}, number(one.images)),
      h("meter", { min: 0, max: most, value: one.images, "aria-hidden": "true" }),
    );
    return { words: `${one.name} ${one.id}`.toLowerCase(), entry: h("li", {}, link) };
  });
  const list = h("ul", { class: "names" }, entries.map(({ entry }) => entry));
  const none = h("p", { class: "empty", hidden: true }, "No category of that name holds any images.");
  const filter = (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    const found = entries.filter(({ words }) => words.includes(wanted));
    list.replaceChildren(...found.map(({ entry }) => entry)); // to hide thousands one by one takes seconds
    none.hidden = found.length > 0;
    say(count(found.length, "category"));
  };
  main.replaceChildren(
    h(
      "div",
      { class: "bar" },
      h("h1", {}, "Categories ", h("small", {}, number(all.length))),
      all.length ? h("input", { type: "search", "aria-label": "Filter by name", placeholder: "Filter by name", oninput: filter }) : null,
    ),
    h("p", { class: "faint" }, "Every image is listed in the four categories that the network finds most likely."),
    list,
    all.length ? none : h("p", { class: "empty" }, "No images yet."),
  );
  return count(all.length, "category");
}

export async function failures(main, state, { signal, shown }) {
  const list = h("ul", { class: "failures" });
  let [next, total] = [null, 0];
  const load = async (limit) => {
    const found = await get("failures", { after: next, limit }, signal);
    list.append(...found.failures.map(failure));
    [next, total] = [found.next, found.total];
    return next !== null;
  };
  const end = await paged(list, load, { page: 100, shown, most: 500 });
  main.replaceChildren(
    h("h1", {}, "Failures ", h("small", {}, number(total))),
    h("p", { class: "faint" }, total ? "These files were found but could not be read. All others are in the database." : ""),
    total ? list : h("p", { class: "empty" }, "Every file that was found could be read."),
    end,
  );
  return total ? `${count(total, "file")} could not be read` : "no failures";
}

const failure = (failed) => h("li", {}, path(failed.path), h("p", {}, show(failed.reason)));

const TIERS = { bytes: "The same bytes", pixels: "The same pixels", near: "Nearly the same" };

export async function copies(main, state, { signal, shown }) {
  const bar = h("progress", { "aria-label": "Looking for duplicates" });
  const step = h("p", { class: "faint", role: "status" }, "looking");
  main.replaceChildren(h("h1", {}, "Duplicates"), h("div", { class: "middle" }, bar, step));
  const found = await duplicates(signal, (running) => {
    if (running.of) [bar.max, bar.value] = [running.of, running.done];
    step.textContent = `${running.step} ${number(running.done)}${running.of ? ` of ${number(running.of)}` : ""}`;
  });
  const copied = found.groups.reduce((sum, group) => sum + group.images.length - 1, 0);
  const told = `${count(copied, "copy")} in ${count(found.groups.length, "group")}: ${size(found.freed)} could be freed`;
  main.replaceChildren(
    h("h1", {}, "Duplicates"),
    h("p", { class: "faint" }, found.groups.length ? `${told}. Nothing is ever deleted; the one to keep comes first.` : ""),
    ...found.notes.map((note) => h("p", { class: "note" }, note)),
    found.groups.length ? "" : h("p", { class: "empty" }, "No image is a copy of another."),
  );
  main.append(...(await groups(found.groups, shown)));
  if (found.unread.length) {
    main.append(
      h("h2", {}, "Not compared ", h("small", {}, number(found.unread.length))),
      h("ul", { class: "failures" }, found.unread.map(failure)),
    );
  }
  return found.groups.length ? told : "no duplicates";
}

async function groups(all, shown) {
  const list = h("div", { class: "plain" });
  let next = 0;
  const load = (limit) => {
    for (const group of all.slice(next, next + limit)) {
      if (all[next - 1]?.tier !== group.tier) list.append(h("h2", {}, TIERS[group.tier]));
      list.append(copy(group, ++next));
    }
    return next < all.length;
  };
  return [list, await paged(list, load, { page: 40, shown })];
}

function copy(group, place) {
  const cards = group.images.map((image, index) => {
    const about = `${image.width} × ${image.height}, ${size(image.bytes)}`;
    const lines = [
      h("p", {}, index ? null : h("strong", { class: "keep" }, "keep"), index ? "" : " ", about),
      index && image.similarity < 1 ? h("p", {}, `alike ${image.similarity.toFixed(3)}`) : null,
      image.copies ? h("p", {}, `and ${number(image.copies)} of a group above`) : null,
    ];
    return card(image, lines, `${index ? "Copy" : "Keep"}: ${show(base(image.path))}, ${about}`);
  });
  const freed = `${count(group.images.length, "image")}, ${size(group.freed)} could be freed`;
  return h("section", { class: "group", "aria-label": `Group ${place}` }, h("h3", {}, `${place}. `, h("small", {}, freed)), grid(cards));
}

// --- searching ----------------------------------------------------------------------------------------------------------

/**
 * The answer to a search with an image of the database, or with one that was given to this page. Where the same image
 * was searched with before, only what is found changes: who chooses how to search keeps the focus where it is.
 */
export async function answer(main, state, { signal, change, say }) {
  const k = COUNTS.includes(Number(state.k)) ? Number(state.k) : 20;
  const [mode, , how] = MODES.find(([name]) => name === state.mode) ?? MODES[0];
  const values = { k, ...how, category: state.category };
  const given = uploads.get(state.upload);
  if (state.upload && !given) {
    main.replaceChildren(
      h("p", { class: "empty" }, "The image that you searched with was not kept. Drop it here again, or ", h("a", { href: "/" }, "look through the images"), "."),
    );
    return "the image was not kept";
  }
  const asked = given ? `upload ${state.upload}` : `image ${state.image}`;
  if (main.querySelector(".query")?.dataset.asked !== asked) {
    const known = given ? null : await get(`images/${encodeURIComponent(state.image)}`, {}, signal);
    main.replaceChildren(
      h("section", { class: "query", "aria-label": "Query", "data-asked": asked }, shown(given, known), h("div", {}, h("div", { class: "how" }), h("div", { class: "told" }))),
      h("section", { class: "results", "aria-label": "Results" }),
    );
  }
  const [choices, told, results] = [".how", ".told", ".results"].map((name) => main.querySelector(name));
  const progress = h("p", { class: "faint" }, "searching");
  told.replaceChildren(progress);
  results.replaceChildren(waiting(k));
  const wait = (error) => {
    progress.textContent = `${error.message}. Trying again in ${error.seconds} s.`;
    say(progress.textContent);
  };
  const found = given
    ? await upload(given.file, values, signal, wait)
    : await get("search", { image: state.image, ...values }, signal);

  replaceHeld(
    choices,
    found.categories.length ? chips(found.categories, { only: state.category, restrict: (category) => change({ category }) }) : "",
    h("div", { class: "asked" }, modes(mode, state.category, change), amount(k, change), state.category ? unrestricted(state, found, change) : null),
  );
  const only = given?.of > 1 ? `Of the ${number(given.of)} files, only ${show(given.name)} is used for the search.` : null;
  told.replaceChildren(
    h("p", { class: "faint", id: "searched" }, searched(found)),
    ...[only, ...found.notes].filter(Boolean).map((note) => h("p", { class: "note" }, note)),
  );
  results.replaceChildren(
    found.matches.length
      ? grid(found.matches.map((one) => match(found, one)))
      : h("p", { class: "empty" }, "Nothing was found here. Search further, or remove the restriction."),
  );
  return [count(found.matches.length, "match"), searched(found), only].filter(Boolean).join(", ");
}

/** Replace the children of a place; the control there that is in focus by its like. */
function replaceHeld(place, ...children) {
  const held = place.contains(document.activeElement) ? document.activeElement.dataset.control : null;
  place.replaceChildren(...children);
  const controls = [...place.querySelectorAll("[data-control]")];
  controls.find(({ dataset }) => dataset.control === held)?.focus({ preventScroll: true });
}

function shown(given, known) {
  const name = show(given ? given.name : base(known.path));
  const broken = (event) => event.target.replaceWith(h("span", { class: "missing" }, "no preview"));
  const image = given ? h("img", { src: given.url, alt: `Query: ${name}`, onerror: broken }) : picture(known, { side: 640 });
  return h("figure", {}, image, h("figcaption", {}, h("h1", { title: name }, name), known && path(known.path)));
}

function modes(mode, only, change) {
  const why = only ? "A single category is always searched in full, so there is nothing to choose here." : null;
  const each = MODES.map(([name, words, , title]) =>
    h(
      "label",
      { title: why ?? title },
      h("input", { type: "radio", name: "mode", value: name, checked: name === mode, disabled: Boolean(only), "data-control": `mode ${name}`, onchange: () => change({ mode: name }) }),
      words,
    ),
  );
  return h("div", { class: "modes", role: "radiogroup", "aria-label": "How far to search", "aria-disabled": String(Boolean(only)), "aria-description": why }, each);
}

function amount(k, change) {
  const options = COUNTS.map((some) => h("option", { value: some, selected: some === k }, String(some)));
  return h("label", {}, "Show ", h("select", { "data-control": "k", onchange: (event) => change({ k: event.target.value }) }, options));
}

function unrestricted(state, found, change) {
  const all = [found, ...found.matches].flatMap(({ categories }) => categories);
  const name = all.find((one) => one.id === state.category)?.name ?? state.category;
  return h("button", { type: "button", "data-control": `only ${state.category}`, onclick: () => change({ category: null }) }, `Only ${name} ✕`);
}
