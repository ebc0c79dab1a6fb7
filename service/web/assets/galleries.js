// Galleries: create, describe, configure, export, reindex, delete.

import { startAccess } from "./access.js";
import { ask, formOf, send } from "./api.js";
import { attempt, count, download, find, h, moment, onSubmit, question } from "./elements.js";
import { addJob } from "./imports.js";
import { addressOf, changed, gallery, inGallery, panel } from "./place.js";

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
  const age = Number(days) > 0 ? count(Number(days), "day") : count(Number(hours), "hour");
  const text = `Pictures older than ${age} are deleted with their features and pictures, now and from now on. This cannot be undone.`;
  if (
    Number(days) + Number(hours) > 0 &&
    !(await question(`Delete old pictures of ${gallery()}?`, text, "Delete them", { danger: true }))
  )
    return;
  const body = new FormData();
  for (const [name, value] of pairs) body.append(name, value);
  await ask(inGallery(""), { method: "PATCH", body });
  form.dataset.of = "";
  changed();
}

async function refit() {
  const text =
    "What counts as a match is learned again at once, from the named pictures. What was learned from this gallery and its kept searches before is deleted.";
  if (await question(`Adjust to ${gallery()} again?`, text, "Adjust again"))
    await act(() => change([["calibration", "reset"]]));
}

async function remove() {
  const name = gallery();
  const { crops, identities } = known.find((summary) => summary.name === name);
  const text = `${count(crops, "picture")} of ${count(identities, "person", "people")} are deleted, and every export. This cannot be undone.`;
  const typed = await question(`Delete the gallery ${name}?`, text, "Delete the gallery", {
    label: `Type ${name}`,
    input: "",
    danger: true,
  });
  if (typed === null) return;
  await attempt(find("#gallery-news"), async () => {
    if (typed !== name) throw new Error(`“${typed}” is not the name ${name}. Nothing was deleted.`);
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
      `${count(summary.crops, "picture")}, ${count(summary.identities, "person", "people")}`,
    ),
  );
}

function describe({
  calibration,
  crops,
  created_at: created,
  embedding_fingerprint: model,
  image_bytes: pictures,
  index_bytes: index,
  index_kind: kind,
}) {
  const rows = [
    ["Created", moment(created)],
    ["Pictures", [count(crops, "picture"), pictures > 0 && `, ${size(pictures)}`]],
    ["Search index", h("span", { title: kind }, size(index))],
    ["Match or no match", calibration.basis],
    ["Model", h("code", { title: model }, `${model.slice(0, SHOWN_DIGITS)}…`)],
  ];
  find("#description").replaceChildren(
    ...rows.flatMap(([label, value]) => [h("dt", {}, label), h("dd", {}, value)]),
  );
}

const size = (bytes) =>
  bytes < 1e6
    ? `${Math.ceil(bytes / 1e3)} kB`
    : bytes < 1e9
      ? `${(bytes / 1e6).toFixed(1)} MB`
      : `${(bytes / 1e9).toFixed(1)} GB`;

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
    const none = h(
      "li",
      { class: "hint" },
      "No export yet. An export is a file with all pictures and names, which a gallery can import. It is deleted after seven days.",
    );
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
      `${count(crops, "picture")}, ${size(bytes)}, until `,
      moment(expires),
    ),
    h("button", { type: "button", onclick: () => save() }, "Download"),
    h("button", { type: "button", class: "danger quiet", onclick: () => drop() }, "Delete…"),
  );
  const save = () => attempt(row, () => download(`${path}/content`, `${gallery()}-${id}.zip`));
  const drop = async () => {
    if (
      await question("Delete this export?", "The gallery itself does not change.", "Delete", {
        danger: true,
      })
    )
      await act(() => send(path, { method: "DELETE" }));
  };
  return row;
}
