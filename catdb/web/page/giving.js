// What is given to search with: a file that is chosen, dropped or pasted.

import { Refused } from "./api.js";
import { trouble } from "./parts.js";
import { number } from "./words.js";

const LARGEST = 20 * 2 ** 20; // bytes; the server takes no more
const KEPT = 20; // uploads to which one can go back

const $ = (id) => document.getElementById(id);

/** What an upload is called, in the history and in the address, while this page stays open. */
export const uploads = new Map();
const opened = Date.now().toString(36); // the history outlives the page: what was called so before is another image
let last = 0;

/** Say above what is shown why that will not do, in the place of what was said so before. */
function refuse(status, words) {
  $("refused")?.remove();
  const said = trouble(new Refused(status, words));
  said.id = "refused";
  $("main").prepend(said);
  said.scrollIntoView({ block: "center" });
}

/** Keep the image among some files, and return what it is called from now on; null where there is none that will do. */
function keep(files) {
  const file = files.find(({ type }) => type.startsWith("image/")) ?? files[0];
  if (!file) {
    refuse(415, "There is no image in that.");
    return null;
  }
  if (file.size > LARGEST) {
    refuse(413, `${file.name || "The image"} has ${number(Math.ceil(file.size / 1e6))} MB; the limit is 20 MB.`);
    return null;
  }
  const called = `${opened}-${++last}`;
  uploads.set(called, { file, name: file.name || "pasted image", url: URL.createObjectURL(file), of: files.length });
  if (uploads.size > KEPT) {
    const [oldest, { url }] = uploads.entries().next().value;
    URL.revokeObjectURL(url);
    uploads.delete(oldest);
  }
  return called;
}

const filesOf = (transfer) => [...transfer.items].map((item) => (item.kind === "file" ? item.getAsFile() : null)).filter(Boolean);

/** From now on, have `search` search with whatever is given. */
export function receive(search) {
  const give = (files) => {
    const called = keep(files);
    if (called) search(called);
  };

  document.addEventListener("click", (event) => event.target.closest?.(".choose") && $("file").click());
  $("file").addEventListener("change", ({ target }) => {
    if (target.files.length) give([...target.files]);
    target.value = "";
  });
  document.addEventListener("paste", (event) => !event.target.closest?.("input") && give(filesOf(event.clipboardData)));

  let over = 0; // elements that what is dragged has entered and not left
  let own = false; // an image of this page is dragged, of which a browser makes a file, too
  document.addEventListener("dragstart", ({ target }) => {
    own = true;
    target.addEventListener("dragend", () => (own = false), { once: true }); // which may be out of the document by then
  });
  const isFile = ({ dataTransfer }) => !own && Boolean(dataTransfer?.types.includes("Files"));
  const enter = (depth) => {
    over = Math.max(0, depth);
    $("drop").hidden = over === 0;
  };
  document.addEventListener("dragenter", (event) => isFile(event) && enter(over + 1));
  document.addEventListener("dragleave", (event) => isFile(event) && enter(over - 1));
  document.addEventListener("dragover", (event) => isFile(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    enter(0);
    give(filesOf(event.dataTransfer));
  });
}
