// Galleries: create, describe, configure, export, reindex, delete.

import { startAccess } from "./access.js";
import { ask, formOf, send } from "./api.js";
import { attempt, decimal, download, find, h, moment, onSubmit, question } from "./elements.js";
import { addJob } from "./imports.js";
import { addressOf, changed, gallery, inGallery, panel } from "./place.js";
import { inNumbers, t, textNodes } from "./texts.js";
import { basisOf } from "./thresholds.js";

// Modes by calibration state. Before the first fit the model’s thresholds decide.
const MODES = { artefact: "on", own: "on", frozen: "frozen", off: "off" };
// The fields of a gallery’s retention, of which one is sent.
const RETENTIONS = ["retention_days", "retention_hours"];
// Enough of a SHA-256 to tell models apart.
const SHOWN_DIGITS = 12;
let known = [];

export function startGalleries() {
  startAccess();
  document.addEventListener("galleries-read", (event) => {
    known = event.detail;
    show();
  });
  document.addEventListener("panel-shown", show);
  onSubmit(find("#new-gallery"), (form) =>
    attempt(form, async () => {
      const made = await ask("/v1/galleries", { method: "POST", body: formOf(new FormData(form)) });
      form.reset();
      location.hash = addressOf(made.name, "galleries");
    }),
  );
  onSubmit(find("#settings"), (form) =>
    attempt(form, async () => {
      const sent = [...new FormData(form)].filter(
        ([name, value]) => form.elements[name].dataset.now !== value,
      );
      await change(withOneRetention(form, sent));
    }),
  );
  find("#refit").addEventListener("click", refit);
  find("#make-export").addEventListener("click", () =>
    act(() => ask(inGallery("/exports"), { method: "POST" })),
  );
  find("#reindex").addEventListener("click", () =>
    act(async () => addJob(await ask(inGallery("/reindex"), { method: "POST" }))),
  );
  find("#delete-gallery").addEventListener("click", remove);
}

// Run an action on the gallery that is shown, and read everything again.
const act = (action) =>
  attempt(find("#gallery-news"), async () => {
    await action();
    changed();
  });

// A change of the days or hours sends the one that is filled in, and no days if neither is.
function withOneRetention(form, pairs) {
  const others = pairs.filter(([name]) => !RETENTIONS.includes(name));
  if (others.length === pairs.length) return pairs;
  const filled = RETENTIONS.map((name) => [name, form.elements[name].value]).filter(
    ([, value]) => value !== "",
  );
  return [...others, ...(filled.length > 0 ? filled : [["retention_days", "0"]])];
}

async function change(pairs) {
  if (pairs.length === 0) return;
  const form = find("#settings");
  const { retention_days: days = 0, retention_hours: hours = 0 } = Object.fromEntries(pairs);
  if (Number(days) + Number(hours) > 0) {
    const age =
      Number(days) > 0 ? t("days", { count: Number(days) }) : t("hours", { count: Number(hours) });
    const agrees = await question(
      t("galleries.forget_older.ask", { gallery: gallery() }),
      t("galleries.forget_older", { age }),
      t("galleries.forget_older.do"),
      { danger: true },
    );
    if (!agrees) return;
  }
  const body = new FormData();
  for (const [name, value] of pairs) body.append(name, value);
  await ask(inGallery(""), { method: "PATCH", body });
  form.dataset.of = "";
  changed();
}

async function refit() {
  const asked = t("galleries.refit.ask", { gallery: gallery() });
  if (await question(asked, t("galleries.refit.about"), t("galleries.refit.do")))
    await act(() => change([["calibration", "reset"]]));
}

async function remove() {
  const name = gallery();
  const { crops, identities } = known.find((summary) => summary.name === name);
  const text = t("galleries.delete.about", {
    pictures: t("pictures", { count: crops }),
    people: t("people", { count: identities }),
  });
  const asked = t("galleries.delete.ask", { gallery: name });
  const typed = await question(asked, text, t("galleries.delete.do"), {
    label: t("galleries.delete.type", { gallery: name }),
    input: "",
    danger: true,
  });
  if (typed === null) return;
  await attempt(find("#gallery-news"), async () => {
    if (typed !== name) throw new Error(t("galleries.delete.wrong", { typed, gallery: name }));
    await ask(inGallery(""), { method: "DELETE" });
    location.hash = addressOf("", "galleries");
  });
}

function show() {
  const current = known.find((each) => each.name === gallery());
  if (panel() !== "galleries" || !current) return;
  find("#gallery-list").replaceChildren(...known.map(row));
  find("#gallery-name").textContent = current.name;
  describe(current);
  find("#delete-gallery").hidden = current.name === "default";
  find("#reindex").hidden = current.state === "ready";
  fill(find("#settings"), current);
  showExports();
}

function row(summary) {
  const shown = summary.name === gallery();
  return h(
    "li",
    {},
    h(
      "a",
      {
        class: "grow name",
        href: addressOf(summary.name, "galleries"),
        "aria-current": shown && "true",
      },
      summary.name,
    ),
    h(
      "span",
      { class: "hint" },
      `${t("pictures", { count: summary.crops })}, ${t("people", { count: summary.identities })}`,
    ),
  );
}

function describe({
  calibration,
  crops,
  created_at: created,
  embedding_fingerprint: model,
  identities,
  image_bytes: pictures,
  index_bytes: index,
  index_kind: kind,
}) {
  const rows = [
    [t("galleries.created"), moment(created)],
    [
      t("galleries.pictures"),
      [t("pictures", { count: crops }), pictures > 0 && `, ${size(pictures)}`],
    ],
    [t("galleries.index"), index > 0 && size(index)],
    [t("galleries.thresholds"), basisOf(calibration, identities)],
    [t("galleries.model"), h("code", { title: model }, `${model.slice(0, SHOWN_DIGITS)}…`)],
  ];
  find("#description").replaceChildren(
    ...rows
      .filter(([, value]) => value)
      .flatMap(([label, value]) => [h("dt", {}, label), h("dd", {}, value)]),
  );
}

function size(bytes) {
  if (bytes < 1e6) return t("size.kb", { number: inNumbers(Math.ceil(bytes / 1e3)) });
  return bytes < 1e9
    ? t("size.mb", { number: decimal(bytes / 1e6, 1) })
    : t("size.gb", { number: decimal(bytes / 1e9, 1) });
}

// Fill the form once for each gallery, so that typed text stays when the gallery changes.
function fill(form, current) {
  if (form.dataset.of === current.name) return;
  form.dataset.of = current.name;
  const values = {
    retention_days: current.retention_days ?? "",
    retention_hours: current.retention_hours ?? "",
    retention_from: current.retention_from,
    calibration: MODES[current.calibration.state],
    time_evidence: String(current.time_evidence),
  };
  for (const [name, value] of Object.entries(values))
    form.elements[name].value = form.elements[name].dataset.now = value;
}

async function showExports() {
  const name = gallery();
  await attempt(find("#exports"), async () => {
    const { results } = await ask(inGallery("/exports"));
    if (gallery() !== name) return;
    const none = h("li", { class: "hint" }, t("galleries.exports.none"));
    find("#exports ul").replaceChildren(
      ...(results.length > 0 ? results.reverse().map(exportRow) : [none]),
    );
  });
}

function exportRow({ export_id: id, created_at: created, expires_at: expires, crops, bytes }) {
  const path = inGallery(`/exports/${encodeURIComponent(id)}`);
  const row = h(
    "li",
    {},
    h("b", { class: "grow" }, moment(created)),
    h(
      "span",
      { class: "hint" },
      textNodes("galleries.exports.about", {
        pictures: t("pictures", { count: crops }),
        size: size(bytes),
        time: moment(expires),
      }),
    ),
    h("button", { type: "button", onclick: () => save() }, t("download")),
    h("button", { type: "button", class: "danger quiet", onclick: () => drop() }, t("delete.more")),
  );
  const save = () => attempt(row, () => download(`${path}/content`, `${gallery()}-${id}.zip`));
  const drop = async () => {
    const about = t("galleries.exports.delete_about");
    const asked = t("galleries.exports.delete");
    if (await question(asked, about, t("delete"), { danger: true }))
      await act(() => send(path, { method: "DELETE" }));
  };
  return row;
}
