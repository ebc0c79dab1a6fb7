// Enrollment of single images, with the outcome of each.

import { ask, formOf, Problem } from "./api.js";
import { attempt, count, find, h, nameOf, onSubmit, pictureOf, takeFiles } from "./elements.js";
import { changed, inGallery } from "./place.js";

// Small enough for any limit on a request, and for showing progress.
const AT_ONCE = 8;
let files = [];

export function startEnrollment() {
  const form = find("#enrollment");
  takeFiles(form.querySelector(".drop"), (chosen) => { files = [...files, ...chosen]; showChosen(); });
  onSubmit(form, enroll);
}

function showChosen() {
  find("#enrollment button.main").textContent = files.length > 0 ? `Enroll ${count(files.length, "image")}` : "Enroll";
  find("#outcomes").replaceChildren(h("ul", { class: "rows" }, files.map((file) =>
    h("li", {}, pictureOf(file, ""), h("span", { class: "grow name" }, file.name),
      h("button", { type: "button", class: "quiet", "aria-label": `Remove ${file.name}`,
        onclick: () => { files = files.filter((other) => other !== file); showChosen(); } }, "×")))));
}

async function enroll(form) {
  const place = find("#outcomes");
  if (files.length === 0) {
    await attempt(place, () => { throw new Error("choose or drop images first"); });
    return;
  }
  const path = inGallery("/crops");
  const fields = [...new FormData(form)].map(([name, value]) =>
    [name, value && name === "captured_at" ? new Date(value).toISOString() : value]);
  // Images dropped from here on belong to the next enrollment, which has fields of its own.
  let waiting = files;
  files = [];
  const list = h("ul", { class: "rows" });
  place.replaceChildren(list);
  await attempt(place, async () => {
    while (waiting.length > 0) {
      const now = waiting.slice(0, AT_ONCE);
      const results = await send(path, formOf([...fields, ...now.map((file) => ["images", file])]));
      list.append(...results.map((one, at) => outcome(now[at], one)));
      waiting = waiting.slice(now.length);
    }
  });
  files = [...waiting, ...files];
  find("#enrollment button.main").textContent = files.length > 0 ? `Enroll ${count(files.length, "image")}` : "Enroll";
  changed();
}

// Where no image was stored the answer is a problem that still has a result per image.
async function send(path, body) {
  try {
    return (await ask(path, { method: "POST", body })).results;
  } catch (error) {
    if (error instanceof Problem && error.results.length > 0) return error.results;
    throw error;
  }
}

function outcome(file, one) {
  const [kind, word] = one.problem ? ["refused", "✕ Refused"] : one.duplicate ? ["uncertain", "= Already stored"] : ["match", "✓ Enrolled"];
  const notes = one.problem ? [one.problem.detail] : one.warnings;
  return h("li", {}, pictureOf(file, ""), h("div", { class: "grow" }, h("b", { class: "name" }, file.name),
    !one.problem && h("p", { class: "hint name" }, `${nameOf(one.identity)} · ${one.camera ?? "camera unknown"}`),
    notes.map((note) => h("p", { class: "note" }, one.problem ? note : `⚠ ${note}`))),
  h("span", { class: `verdict ${kind}` }, word));
}
