// What is asked of the server, and how long it is waited for.

export class Refused extends Error {
  constructor(status, reason, seconds) {
    super(reason);
    this.status = status; // 0: no answer at all
    this.seconds = seconds; // after which to ask again, if that is worth while
  }
}

const pause = (seconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { "X-Catdb": "1", ...options.headers } });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Refused(0, "The server does not answer.");
  }
  let found = null;
  try {
    found = await answer.json();
  } catch (error) {
    if (options.signal?.aborted) throw error;
  }
  if (answer.ok && found === null) throw new Refused(0, "The server's answer broke off.");
  if (!answer.ok) {
    const seconds = Number(answer.headers.get("Retry-After")) || null;
    throw new Refused(answer.status, found?.error ?? `The server answers with ${answer.status}.`, seconds);
  }
  return { status: answer.status, found };
}

const query = (values) => {
  const given = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
};

export const get = async (path, values = {}, signal) => (await ask(`/api/${path}${query(values)}`, { signal })).found;

export const thumbnail = (id, side = 320) => `/api/images/${id}/thumbnail?size=${side}`;

/** Search with a file; while the server is busy or its engine is starting, `wait` is told, and it is sent again. */
export async function upload(file, values, signal, wait) {
  for (;;) {
    try {
      const headers = { "Content-Type": file.type || "application/octet-stream" };
      const options = { method: "POST", body: file, headers, signal };
      return (await ask(`/api/search${query(values)}`, options)).found;
    } catch (error) {
      if (!(error instanceof Refused) || !error.seconds || ![429, 503].includes(error.status)) throw error;
      wait(error);
      await pause(error.seconds, signal);
    }
  }
}

/** Ask for the duplicates until they have been found; `tell` is told how far that is. */
export async function duplicates(signal, tell) {
  for (;;) {
    const { status, found } = await ask("/api/duplicates", { signal });
    if (status !== 202) return found;
    tell(found);
    await pause(0.4, signal);
  }
}
