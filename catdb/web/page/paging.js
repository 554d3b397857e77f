// Lists that come a page at a time: a button at the end asks for more, and so may whoever leads through the list.

import { Refused } from "./api.js";
import { h, trouble } from "./parts.js";

const growing = new WeakMap(); // of each list that has not all been loaded: what loads its next page

/** Whether there is more of a list than is shown. */
export const grows = (list) => growing.has(list);

/** Load the next page of a list that grows, or wait for the one that is on its way; raises what kept it from coming. */
export const grow = (list) => growing.get(list)();

/**
 * Show the first page, and return a button for more. `load(limit)` appends so many to `list`, and says whether others
 * are left; as many as were `shown` when one was here before are shown at once.
 */
export async function paged(list, load, { page, shown, most = Infinity }) {
  const end = h("div", { class: "middle" }, h("button", { type: "button", onclick: () => next().catch(() => {}) }, "Show more"));
  const append = async (limit) => {
    end.hidden = !(await load(limit));
    list.dataset.shown = Number(list.dataset.shown) + limit;
    if (end.hidden) growing.delete(list);
    else growing.set(list, next);
  };
  let loading = null;
  const next = () => (loading ??= turn());
  const turn = async () => {
    try {
      await append(page);
      end.querySelector(".error")?.remove();
    } catch (error) {
      end.querySelector(".error")?.remove();
      if (error instanceof Refused) end.prepend(trouble(error));
      throw error;
    } finally {
      loading = null;
    }
  };
  list.dataset.shown = 0;
  do await append(Math.min(most, Math.max(page, shown - list.dataset.shown)));
  while (!end.hidden && list.dataset.shown < shown);
  return end;
}
