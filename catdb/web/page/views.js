// The views: each fills the main part of the page for one address, and may be left before it is done.

import { Refused, duplicates, get, upload } from "./api.js";
import { address, card, chips, grid, h, large, match, picture, waiting } from "./parts.js";
import { base, count, number, percent, searched, show, size } from "./words.js";

const MODES = [
  ["", "Own categories", {}, "Search the categories of the image itself: fast, and misses about one in eight"],
  ["recall", "Recall 0.95", { recall: 0.95 }, "Search as far as it takes to find 95 % of the ten nearest"],
  ["exact", "Exact", { exact: true }, "Compare with every image"],
];
const COUNTS = [10, 20, 50, 100, 200];

/** What an upload is called, in the history and in the address, while this page stays open. */
export const uploads = new Map();

/** Return what shows one of some images large. */
function open(images) {
  const dialog = document.getElementById("detail");
  return async function show(image) {
    try {
      large(dialog, await get(`images/${image.id}`), images, show);
    } catch (error) {
      const close = h("button", { type: "button", onclick: () => dialog.close() }, "Close");
      dialog.replaceChildren(h("div", {}, trouble(error), close));
      if (!dialog.open) dialog.showModal();
    }
  };
}

/** Say what went wrong, and what can be done. */
export function trouble(error) {
  const remedies = {
    0: "Is catdb serve still running?",
    401: "Open the address that catdb serve printed, with its token.",
    413: "Try a smaller copy of it.",
    415: "JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF can be read, and HEIC where catdb has its extra.",
  };
  const remedy = remedies[error.status];
  return h("p", { class: "error", role: "alert" }, error.message, remedy ? ` ${remedy}` : "");
}

// --- looking through ---------------------------------------------------------------------------------------------------

/** A page of images after another, as far as one goes on; `more` is a button and comes by itself into sight. */
async function pages(main, values, each, signal) {
  const shown = [];
  const list = grid([]);
  const more = h("button", { type: "button" }, "Show more");
  const end = h("p", { class: "middle" }, more);
  const looking = open(shown);
  let next = null;
  const load = async () => {
    more.disabled = true;
    try {
      const found = await get("images", { ...values, after: next, limit: 60 }, signal);
      shown.push(...found.images);
      list.append(...found.images.map((image) => card(image, each(image), { open: looking })));
      next = found.next;
      end.hidden = next === null;
      return found;
    } catch (error) {
      if (error instanceof Refused) end.replaceChildren(trouble(error), more);
      throw error;
    } finally {
      more.disabled = false;
    }
  };
  const quietly = () => load().catch(() => {});
  more.onclick = quietly;
  const found = await load();
  main.append(list, end);
  const sight = new IntersectionObserver((seen) => seen[0].isIntersecting && next !== null && !more.disabled && quietly(), { rootMargin: "600px" });
  sight.observe(end);
  signal.addEventListener("abort", () => sight.disconnect(), { once: true });
  return found;
}

/** Where to begin: ask for an image to search with, and show all that there are. */
export async function home(main, state, { signal, status, choose }) {
  const known = await status();
  if (!known.images) {
    main.replaceChildren(
      h(
        "section",
        { class: "empty", "aria-labelledby": "nothing" },
        h("h1", { id: "nothing" }, "No images yet"),
        h("p", {}, "Fill the database with a folder of yours: ", h("code", {}, "catdb build FOLDER")),
        h("p", {}, "or let it keep itself up to date: ", h("code", {}, "catdb watch FOLDER")),
        h("p", {}, "They appear here as they come in."),
        known.failed ? h("p", {}, h("a", { href: "/?view=failures" }, `${count(known.failed, "file")} could not be read`)) : null,
      ),
    );
    return "no images yet";
  }
  const list = h("section", { "aria-label": "All images" }, waiting());
  main.replaceChildren(asking(known, choose), list);
  const inner = h("div");
  await pages(inner, {}, () => [], signal);
  list.replaceChildren(h("h2", {}, "All images ", h("small", {}, number(known.images))), inner);
  return count(known.images, "image");
}

function asking(known, choose) {
  const engine = {
    starting: "The engine is starting; an image that you drop now is searched with as soon as it is ready.",
    failed: `Only images of the database can be searched with: ${known.engine.reason}`,
    ready: "",
  }[known.engine.state];
  return h(
    "section",
    { class: "ask", "aria-label": "Search" },
    h("p", { class: "lead" }, "Drop a photograph to see what resembles it"),
    h("button", { type: "button", class: "primary", onclick: choose }, "Choose an image"),
    h("span", {}, "or paste one, or click any image below"),
    engine ? h("p", { id: "engine" }, engine) : null,
  );
}

export async function category(main, state, { signal }) {
  const all = (await get("categories", {}, signal)).categories;
  const known = all.find((one) => one.id === state.category) ?? { id: state.category, name: state.category, images: 0 };
  main.replaceChildren(
    h("p", {}, h("a", { href: "/?view=categories" }, "All categories")),
    h("h1", {}, known.name, " ", h("small", { class: "faint" }, count(known.images, "image"))),
  );
  await pages(main, { category: state.category }, (image) => h("p", {}, percent(image.probability)), signal);
  return `${known.name}: ${count(known.images, "image")}`;
}

export async function categories(main, state, { signal }) {
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
  const none = h("p", { class: "empty", hidden: true }, "No category of that name holds an image.");
  const filter = (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    for (const { words, entry } of entries) entry.hidden = !words.includes(wanted);
    none.hidden = entries.some(({ entry }) => !entry.hidden);
  };
  main.replaceChildren(
    h(
      "div",
      { class: "bar" },
      h("h1", {}, "Categories ", h("small", { class: "faint" }, number(all.length))),
      h("input", { type: "search", "aria-label": "Filter by name", placeholder: "Filter by name", oninput: filter }),
    ),
    h("p", { class: "faint" }, "Every image stands in the four categories that the network finds likeliest."),
    h("ul", { class: "names" }, entries.map(({ entry }) => entry)),
    all.length ? none : h("p", { class: "empty" }, "No images yet."),
  );
  return count(all.length, "category");
}

export async function failures(main, state, { signal }) {
  const list = h("ul", { class: "failures" });
  const more = h("button", { type: "button", hidden: true }, "Show more");
  let next = null;
  const load = async () => {
    const found = await get("failures", { after: next, limit: 100 }, signal);
    list.append(...found.failures.map((one) => h("li", {}, h("p", {}, show(one.path)), h("p", {}, show(one.reason)))));
    next = found.next;
    more.hidden = next === null;
    return found.total;
  };
  more.onclick = () => load().catch((error) => more.replaceWith(trouble(error)));
  const total = await load();
  main.replaceChildren(
    h("h1", {}, "Failures ", h("small", { class: "faint" }, number(total))),
    h("p", { class: "faint" }, total ? "Files that were found and could not be read. Each costs itself and nothing else." : ""),
    total ? list : h("p", { class: "empty" }, "Every file that was found could be read."),
    h("p", { class: "middle" }, more),
  );
  return total ? `${count(total, "file")} could not be read` : "no failures";
}

const TIERS = { bytes: "The same bytes", pixels: "The same pixels", near: "Nearly the same" };

export async function copies(main, state, { signal }) {
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
  const bunch = groups(main, found.groups);
  bunch();
  if (found.unread.length) {
    main.append(
      h("h2", {}, "Not compared ", h("small", {}, number(found.unread.length))),
      h("ul", { class: "failures" }, found.unread.map((one) => h("li", {}, h("p", {}, show(one.path)), h("p", {}, show(one.reason))))),
    );
  }
  return found.groups.length ? told : "no duplicates";
}

/** Return what shows the next few groups, and a button for those after them. */
function groups(main, all, together = 40) {
  let shown = 0;
  const place = h("div", { class: "plain" });
  const more = h("button", { type: "button" }, "Show more");
  const end = h("p", { class: "middle" }, more);
  main.append(place, end);
  const next = () => {
    for (const group of all.slice(shown, shown + together)) {
      if (all[shown - 1]?.tier !== group.tier) place.append(h("h2", {}, TIERS[group.tier]));
      place.append(copy(group, ++shown));
    }
    end.hidden = shown >= all.length;
  };
  more.onclick = next;
  return next;
}

function copy(group, place) {
  const looking = open(group.images);
  const cards = group.images.map((image, index) => {
    const about = `${image.width} × ${image.height}, ${size(image.bytes)}`;
    const lines = [
      h("p", {}, index ? null : h("strong", { class: "keep" }, "keep"), index ? "" : " ", about),
      index && image.similarity < 1 ? h("p", {}, `alike ${image.similarity.toFixed(3)}`) : null,
      image.copies ? h("p", {}, `and ${number(image.copies)} of a group above`) : null,
    ];
    return card(image, lines, { open: looking, label: `${index ? "Copy" : "Keep"}: ${show(base(image.path))}, ${about}` });
  });
  const freed = `${count(group.images.length, "image")}, ${size(group.freed)} could be freed`;
  return h("section", { class: "group", "aria-label": `Group ${place}` }, h("h3", {}, `${place}. `, h("small", {}, freed)), grid(cards));
}

// --- searching ----------------------------------------------------------------------------------------------------------

/** The answer to a search with an image of the database, or with one that was given to this page. */
export async function answer(main, state, { signal, go, say }) {
  const k = COUNTS.includes(Number(state.k)) ? Number(state.k) : 20;
  const [mode, , how] = MODES.find(([name]) => name === state.mode) ?? MODES[0];
  const values = { k, ...how, category: state.category };
  const given = uploads.get(state.upload);
  if (state.upload && !given) {
    main.replaceChildren(
      h("p", { class: "empty" }, "The image that was searched with is not kept. Drop it here again, or ", h("a", { href: "/" }, "look through the images"), "."),
    );
    return "the image is not kept";
  }
  const known = given ? null : await get(`images/${state.image}`, {}, signal);
  const about = h("div", {}, h("p", { class: "faint" }, "searching"));
  const results = h("section", { "aria-label": "Results" }, waiting(k));
  main.replaceChildren(h("section", { class: "query", "aria-label": "Query" }, shown(given, known), about), results);

  const told = (error) => {
    about.firstChild.textContent = error.message;
    say(error.message);
  };
  const found = given
    ? await upload(given.file, values, signal, told)
    : await get("search", { image: state.image, ...values }, signal);

  const change = (more) => go({ ...state, ...more });
  about.replaceChildren(
    found.categories.length ? chips(found.categories, { only: state.category, restrict: (category) => change({ category }) }) : "",
    h("div", { class: "asked" }, modes(mode, change), amount(k, change), state.category ? unrestricted(state, found, change) : null),
    h("p", { class: "faint", id: "searched" }, searched(found)),
    ...found.notes.map((note) => h("p", { class: "note" }, note)),
  );
  const looking = open(found.matches);
  results.replaceChildren(
    found.matches.length
      ? grid(found.matches.map((one) => match(found, one, looking)))
      : h("p", { class: "empty" }, "Nothing was found there. Search further, or without the restriction."),
  );
  return `${count(found.matches.length, "match")}, ${searched(found)}`;
}

function shown(given, known) {
  if (known) {
    return h("figure", {}, picture(known, { side: 640 }), h("figcaption", {}, h("p", { class: "name" }, show(base(known.path))), h("p", { class: "path" }, show(known.path))));
  }
  const broken = (event) => event.target.replaceWith(h("span", { class: "missing" }, "no preview"));
  return h("figure", {}, h("img", { src: given.url, alt: `Query: ${show(given.name)}`, onerror: broken }), h("figcaption", {}, show(given.name)));
}

function modes(mode, change) {
  const each = MODES.map(([name, words, , title]) =>
    h("label", { title }, h("input", { type: "radio", name: "mode", value: name, checked: name === mode, onchange: () => change({ mode: name }) }), words),
  );
  return h("div", { class: "modes", role: "radiogroup", "aria-label": "How far to search" }, each);
}

function amount(k, change) {
  const options = COUNTS.map((some) => h("option", { value: some, selected: some === k }, String(some)));
  return h("label", {}, "Show ", h("select", { onchange: (event) => change({ k: event.target.value }) }, options));
}

function unrestricted(state, found, change) {
  const name = found.categories.find((one) => one.id === state.category)?.name ?? state.category;
  return h("button", { type: "button", onclick: () => change({ category: null }) }, `Only ${name} ✕`);
}
