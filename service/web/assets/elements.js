// Elements of the page. Text from the service or from a person becomes a text node, never markup.

import { aboutField, blobOf } from "./api.js";
import { hasText, LANGUAGE, LOCALE, t } from "./texts.js";

const SIGNS = { match: "✓", uncertain: "?", no_match: "✕" };
const TILE_PIXELS = 160;
const THIS_YEAR = { month: "short", day: "numeric", hour: "numeric", minute: "2-digit" };
const DATE = { year: "numeric", ...THIS_YEAR };
const SHORT = new Intl.DateTimeFormat(LOCALE, THIS_YEAR);
const MOMENT = new Intl.DateTimeFormat(LOCALE, DATE);
const ZONED = new Intl.DateTimeFormat(LOCALE, {
  ...DATE,
  second: "2-digit",
  timeZoneName: "short",
});
const RELATIVE = new Intl.RelativeTimeFormat(LANGUAGE);
const LONGEST_AGO_DAYS = 7;
const SHARES = new Intl.NumberFormat(LOCALE, { style: "percent" });
const FINE_SHARES = new Intl.NumberFormat(LOCALE, { style: "percent", minimumFractionDigits: 1 });
const LEAST_SHARE = 0.001;
const MOST_SHARE = 0.999;
const AGO_EVERY_MS = 10_000;
export const ZONE = ZONED.resolvedOptions().timeZone;

// Create an element: h("p", {class: "hint", onclick: f}, "text", child). Children null and false
// are skipped.
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null)
      element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

export const find = (selector) => document.querySelector(selector);
// Return a name in the Unicode form in which names are compared, or null.
export const nfc = (name) => name?.normalize("NFC") ?? null;
export const nameOf = (identity) => identity ?? t("name.none");

// Return how long a gallery keeps its pictures, in words, or null if it keeps them for ever.
export function keptFor({ retention_days: days, retention_hours: hours }) {
  if (days !== null) return t("days", { count: days });
  return hours !== null ? t("hours", { count: hours }) : null;
}

export const day = (date) =>
  new Date(date).toLocaleDateString(LOCALE, {
    year: "numeric",
    month: "short",
    day: "numeric",
    timeZone: "UTC",
  });

export const CLOCK = new Intl.DateTimeFormat(LOCALE, { hour: "numeric", minute: "2-digit" });
export const isToday = (at) => new Date(at).toDateString() === new Date().toDateString();

// Return a time in the form that a field for date and time takes.
export const localTime = (at) =>
  new Date(at - 60_000 * new Date(at).getTimezoneOffset()).toISOString().slice(0, 16);

export const isThisYear = (at) => at.getFullYear() === new Date().getFullYear();
const shortFormat = (...all) => (all.every(isThisYear) ? SHORT : MOMENT);

// Show a time in full, or short: without the year if it is this one.
export function moment(text, zoned = false) {
  if (!text) return t("time.unknown");
  const at = new Date(text);
  return h(
    "time",
    { datetime: text, title: ZONED.format(at) },
    (zoned ? ZONED : shortFormat(at)).format(at),
  );
}

// Show by which camera and when a crop was captured, as far as that is known.
export const whereAndWhen = ({ camera, captured_at: time }) => [
  camera && h("span", { class: "name" }, camera),
  time && h("span", {}, moment(time)),
];

// Show the time from the first to the last moment, with what they share only once.
export function period(first, last) {
  if (!first || !last) return moment(first ?? last);
  const ends = [new Date(first), new Date(last)];
  return h(
    "span",
    { title: ends.map((at) => ZONED.format(at)).join(" – ") },
    shortFormat(...ends).formatRange(...ends),
  );
}

// Show how long ago a time was, kept up to date, with the exact time as its title.
export function ago(text) {
  const at = new Date(text);
  return h("time", { datetime: text, title: ZONED.format(at), "data-ago": "" }, sinceWords(at));
}

function sinceWords(at) {
  const minutes = Math.floor((Date.now() - at) / 60_000);
  if (minutes < 1) return t("time.just_now");
  if (minutes < 60) return RELATIVE.format(-minutes, "minute");
  if (minutes < 24 * 60) return RELATIVE.format(-Math.floor(minutes / 60), "hour");
  const days = Math.floor(minutes / (24 * 60));
  return days < LONGEST_AGO_DAYS ? RELATIVE.format(-days, "day") : MOMENT.format(at);
}

setInterval(() => {
  for (const time of document.querySelectorAll("[data-ago]"))
    time.textContent = sinceWords(new Date(time.dateTime));
}, AGO_EVERY_MS);

// Return a share in percent, beyond its bounds by a sign or, with `inWords`, by words.
export function percent(share, inWords = false) {
  if (share === null) return "–";
  if (share > MOST_SHARE)
    return t(inWords ? "share.more_than" : "share.above", {
      share: FINE_SHARES.format(MOST_SHARE),
    });
  if (share < LEAST_SHARE)
    return t(inWords ? "share.less_than" : "share.below", {
      share: FINE_SHARES.format(LEAST_SHARE),
    });
  return (share < 0.01 || share > 0.99 ? FINE_SHARES : SHARES).format(share);
}

// Return what a result has and what a match needs, in percent, with the decimals that tell them
// apart.
export function missedBy(probability, needed) {
  const digits = [0, 1, 2, 3].find(
    (number) => (100 * probability).toFixed(number) !== (100 * needed).toFixed(number),
  );
  if (!digits) return [percent(probability), percent(needed)];
  const shares = new Intl.NumberFormat(LOCALE, {
    style: "percent",
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
  return [shares.format(probability), shares.format(needed)];
}

// Return the probability of a result and, if it is uncertain, what a match needs.
export const sharesOf = ({ verdict, probability }, needed) =>
  verdict === "uncertain" ? missedBy(probability, needed) : [percent(probability), null];

// Say that a list is empty, with a link to what fills it.
export const nothingYet = (words, hint, href, label) =>
  h(
    "div",
    { class: "empty" },
    h("p", { class: "big" }, words),
    h("p", {}, hint),
    h("p", { class: "row" }, h("a", { class: "button main", href }, label)),
  );

export const sentence = (text) =>
  text.charAt(0).toUpperCase() + text.slice(1) + (/[.?!…]$/.test(text) ? "" : ".");
export const decimal = (number, digits) =>
  number
    ?.toLocaleString(LOCALE, { minimumFractionDigits: digits, maximumFractionDigits: digits })
    .replace("-", "−") ?? "–";

export function verdictChip(verdict) {
  return h(
    "span",
    {
      class: `verdict ${verdict ?? "unscored"}`,
      title: t("verdict.hint"),
    },
    t(`verdict.of_model.${verdict ?? "none"}`),
  );
}

export function verdictSign(verdict) {
  return h("i", { "aria-hidden": "true" }, SIGNS[verdict] ?? "–");
}

// Return the label of a field in the form or dialog that a place belongs to.
function labelOf(field, place) {
  const form = place?.closest("form, dialog") ?? place;
  const label = form?.querySelector(`[name="${CSS.escape(field)}"]`)?.labels?.[0];
  return label?.firstChild.textContent.trim();
}

// Say what is wrong with fields by their labels in the form that was sent.
function messageOf(error, place) {
  if (!error.fields?.length) return error.message;
  return error.fields
    .map(([message, names]) => {
      const labels = names.map((name) => labelOf(name, place)).filter(Boolean);
      return aboutField(message, labels.join(", "));
    })
    .join("; ");
}

// Say in the language of the page what kind of problem it is. The service’s own words are English.
const kindOf = (code) =>
  LANGUAGE !== "en" && hasText(`problem.${code}`) ? t(`problem.${code}`) : null;

// Return what is wrong with one picture of several, as strings and elements.
export function wordsOfProblem({ type, detail }) {
  const kind = kindOf(type?.split(":").at(-1));
  return [kind && `${kind} `, h("span", { lang: "en" }, sentence(detail))].filter(Boolean);
}

// Show a problem. Fields are called by their labels in the form or dialog of `place`.
export function problemOf(error, place = null) {
  const lines = (error.results ?? []).map((result, index) =>
    result.problem
      ? h(
          "li",
          { class: "name" },
          `${error.names?.[index] ?? t("picture.number", { number: index + 1 })}: `,
          wordsOfProblem(result.problem),
        )
      : null,
  );
  const refused = lines.filter((line) => line !== null);
  const kind = kindOf(error.code);
  const lang = error.code ? "en" : LANGUAGE;
  const contents =
    refused.length > 0
      ? [h("p", {}, t("problem.pictures", { count: refused.length })), h("ul", {}, refused)]
      : [kind && h("p", {}, kind), h("p", { lang }, sentence(messageOf(error, place)))];
  return h("div", { class: "problem", role: "alert" }, contents);
}

// Submit a form by `send`. Its button is disabled until the answer, so that nothing is sent twice.
export function onSubmit(form, send) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button.main");
    button.disabled = true;
    try {
      await send(form);
    } finally {
      button.disabled = false;
    }
  });
}

// Run an action, and show the reason of a failure at the top of `place`.
export async function attempt(place, action) {
  place.querySelectorAll(":scope > .problem").forEach((old) => old.remove());
  place.setAttribute("aria-busy", "true");
  let result;
  let superseded = false;
  try {
    result = await action();
  } catch (error) {
    superseded = error.name === "AbortError";
    // A missing gallery is reported once, above the panels.
    if (!superseded && !(error.unknownGallery && place !== find("main"))) {
      place.prepend(problemOf(error, place));
      place.firstChild.scrollIntoView({ block: "nearest" });
    }
  }
  // A newer action has replaced this one and is still running.
  if (!superseded) place.removeAttribute("aria-busy");
  return result;
}

export function pictureOf(blob, alt) {
  const image = h("img", { alt, class: "crop" });
  const url = URL.createObjectURL(blob);
  image.addEventListener("load", () => URL.revokeObjectURL(url));
  image.addEventListener("error", () =>
    image.replaceWith(h("span", { class: "crop missing" }, "?")),
  );
  image.src = url;
  return image;
}

// Fetch pictures when they scroll into view, so that the audit log records only views that
// happened.
const inView = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries)
      if (isIntersecting) {
        inView.unobserve(target);
        target.dispatchEvent(new Event("in-view"));
      }
  },
  { rootMargin: "200px" },
);

// Show an image of the service, fetched with the key. Mark an image that was not kept.
export function picture(url, alt) {
  const frame = h("span", { class: "frame" });
  const missing = (why) =>
    frame.append(h("span", { class: "missing", title: why }, t("picture.none")));
  if (!url) missing(t("picture.not_kept"));
  else
    frame.addEventListener(
      "in-view",
      () =>
        blobOf(url).then(
          (blob) => frame.append(pictureOf(blob, alt)),
          (error) => missing(error.message),
        ),
      { once: true },
    );
  inView.observe(frame);
  return frame;
}

// Fetch the file, since a link could not send the key.
export async function download(path, name) {
  const url = URL.createObjectURL(await blobOf(path));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// Show an image in the size of a tile.
export const thumbnail = (url, alt) => picture(url && `${url}?width=${TILE_PIXELS}`, alt);

// Show a picture of a query: a file, or an image of the service.
export const shotPicture = (shot, alt = "") =>
  shot.blob ? pictureOf(shot.blob, alt) : picture(shot.url, alt);

// Show a dialog with a form. Sending the form closes the dialog with "yes"; `closed` gets the answer.
export function showForm(attributes, closed, ...contents) {
  const dialog = h(
    "dialog",
    {
      ...attributes,
      onclose: () => {
        dialog.remove();
        closed(dialog.returnValue);
      },
    },
    h(
      "form",
      {
        onsubmit: (event) => {
          event.preventDefault();
          dialog.close("yes");
        },
      },
      ...contents,
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

// Ask for confirmation; resolve to the text typed (true without an input), or null. `pictures` are
// elements that show what is asked about.
export function question(
  title,
  text,
  action,
  { label, input, required = true, danger = false, list, pictures = [] } = {},
) {
  return new Promise((resolve) => {
    const field =
      input === undefined ? null : h("input", { value: input, maxlength: 256, required, list });
    const dialog = showForm(
      { class: "question", "aria-label": title },
      (answer) => resolve(answer === "yes" ? (nfc(field?.value) ?? true) : null),
      h("h2", {}, title),
      h("p", {}, text),
      h("div", { class: "seen" }, pictures),
      field && h("label", {}, label, field),
      list && h("p", { class: "hint known", "aria-live": "polite" }),
      h(
        "div",
        { class: "row end" },
        h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, t("cancel")),
        h("button", { class: danger ? "danger" : "main" }, action),
      ),
    );
    field?.select();
  });
}

// Let a label with a file input also accept dropped files.
export function takeFiles(label, take) {
  const input = label.querySelector("input");
  input.addEventListener("change", () => {
    take([...input.files]);
    input.value = "";
  });
  label.addEventListener("dragover", (event) => {
    event.preventDefault();
    label.classList.add("over");
  });
  label.addEventListener("dragleave", () => label.classList.remove("over"));
  label.addEventListener("drop", (event) => {
    event.preventDefault();
    label.classList.remove("over");
    take([...event.dataTransfer.files]);
  });
}
