// How things are said: counts, shares, sizes; the same words as on the command line (catdb/words.py).

export const number = (value) => value.toLocaleString("en-US");

/** Where there is little room: "12K". */
export const brief = (value) => value.toLocaleString("en-US", { notation: "compact" });

/** "1 image", "2,000 images", "2 categories", "2 matches". */
export function count(value, noun) {
  const several = noun.endsWith("y") ? `${noun.slice(0, -1)}ies` : `${noun}${noun.endsWith("ch") ? "es" : "s"}`;
  return `${number(value)} ${value === 1 ? noun : several}`;
}

export const percent = (part) => (part >= 0.005 ? `${Math.round(100 * part)}\u00a0%` : "<1\u00a0%");

/** What a percentile means, in no more digits than it has; nothing where there is none. */
export function closer(percentile, ceiling) {
  if (percentile === null || ceiling === null) return "";
  const digits = Math.max(0, Math.round(-Math.log10(1 - ceiling)) - 2);
  const share = Math.floor(percentile * 10 ** (digits + 2) + 1e-6) / 10 ** digits; // never rounded up
  return `closer than ${percentile >= ceiling ? ">" : ""}${share.toFixed(digits)} % of random pairs`;
}

/** A number of bytes in the unit that leaves it two or three digits. */
export function size(bytes) {
  let [value, unit] = [bytes, "bytes"];
  for (const larger of ["KB", "MB", "GB", "TB"]) {
    if (value < 1000) break;
    [value, unit] = [value / 1000, larger];
  }
  return `${value >= 10 || unit === "bytes" ? Math.round(value) : value.toFixed(1)}\u00a0${unit}`;
}

/** A path as it can be shown: bytes that are no UTF-8, and what cannot be seen, are escaped. */
export function show(path) {
  return path.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]|\p{Surrogate}/gu, (c) => {
    const code = c.codePointAt(0);
    if (code >= 0xdc80 && code <= 0xdcff) return `\\x${(code - 0xdc00).toString(16)}`;
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
  });
}

export const base = (path) => path.slice(path.lastIndexOf("/") + 1);

/** The folder that a path is in; of a deep one the last two names. */
export function folder(path) {
  const names = path.split("/").slice(1, -1);
  return names.length > 2 ? `…/${names.slice(-2).join("/")}` : `/${names.join("/")}`;
}

/** How much of the database an answer rests on. */
export function searched(answer) {
  const only = answer.admitted < answer.total ? ` that the filter admits (of ${number(answer.total)} in all)` : "";
  const among = count(answer.admitted < answer.total ? answer.admitted : answer.total, "image") + only;
  const where = `${number(answer.probed)} of ${count(answer.populated, "category")}`;
  const time = `${(1000 * answer.seconds).toFixed(answer.seconds < 0.0995 ? 1 : 0)}\u00a0ms`;
  return `searched ${number(answer.scanned)} of ${among} in ${where}, ${time}`;
}
