// The enrollment form: images, or a folder whose sub-folders name the people.

import { enrollAll } from "./batches.js";
import { askForBoxes } from "./boxes.js";
import { attempt, count, find, h, moment, onSubmit, pictureOf, takeFiles } from "./elements.js";
import { inGallery } from "./place.js";
import { takenAt } from "./taken.js";

const IMAGE = /\.(jpe?g|png|webp|bmp)$/i;
const BY_PRODUCTS = ["__MACOSX", "Thumbs.db", "desktop.ini"];
const SHOWN = 40;
// Each is {file}, of a folder also {file, identity}, and of a box of a picture {file, boxed, identity}; `taken` is the
// time that the file gives, null where it gives none.
let chosen = [];
let reading = Promise.resolve();

export function startEnrollment() {
  const form = find("#enrollment");
  takeFiles(form.querySelector(".drop"), (files) => attempt(form, async () => {
    for (const file of files) await readable(file);
    choose(files.map((file) => ({ file })));
  }));
  takeFiles(form.querySelector(".folder"), (files) => attempt(form, () => choose(imagesOf(files))));
  onSubmit(form, enroll);
}

// The rule of imports: where no image lies directly in the folder, its sub-folders name the people.
function imagesOf(files) {
  const parts = (file) => file.webkitRelativePath.split("/");
  const visible = files.filter((file) => !parts(file).some((part) => part.startsWith(".") || BY_PRODUCTS.includes(part)));
  if (visible.some((file) => parts(file).length === 2 && file.name === "manifest.csv")) {
    throw new Error("The folder has a manifest.csv, which this form does not read. Pack the folder as a zip file and import it below.");
  }
  const images = visible.filter((file) => IMAGE.test(file.name))
    .sort((one, other) => one.webkitRelativePath.localeCompare(other.webkitRelativePath, undefined, { numeric: true }));
  if (images.length === 0) throw new Error("The folder holds no picture. Pictures are named .jpg, .jpeg, .png, .webp or .bmp.");
  const named = images.every((file) => parts(file).length > 2);
  const others = visible.length - images.length;
  find("#passed-over").textContent = [
    named ? `${count(new Set(images.map((file) => parts(file)[1])).size, "sub-folder names a person", "sub-folders name the people")}.`
      : "Pictures lie directly in the folder, so that the field Name names the person on all of them.",
    others > 0 && `${count(others, "file that is no picture is", "files that are no pictures are")} passed over.`,
  ].filter(Boolean).join(" ");
  return images.map((file) => ({ file, ...(named && { identity: parts(file)[1] }) }));
}

// A folder that was dropped comes as a file without bytes.
const readable = (file) => file.slice(0, 1).arrayBuffer().catch(() => {
  throw new Error(`${file.name} cannot be read. If it is a folder, use “Choose a folder”.`);
});

function choose(more) {
  chosen = [...chosen, ...more];
  showChosen();
  reading = reading.then(async () => {
    for (const one of more) one.taken = await takenAt(one.file);
    showChosen();
  });
}

function offerTimes() {
  const place = find("#file-times"), known = chosen.filter((one) => one.taken);
  place.hidden = known.length === 0;
  place.querySelector("span").textContent = `Take the time from the file, where it has one (${known.length.toLocaleString()} of ${count(chosen.length, "picture")})`;
}

function showChosen() {
  const row = (one) => h("li", {}, pictureOf(one.file, ""), h("div", { class: "grow" },
    h("span", { class: "name" }, one.file.name), one.boxed ? nameField(one) : one.identity && h("p", { class: "hint name" }, one.identity),
    one.taken && h("p", { class: "hint" }, "The file says: ", moment(one.taken.toISOString()))),
  one.identity === undefined && h("button", { type: "button", "aria-label": `Draw boxes on ${one.file.name}`, onclick: () => drawBoxes(one) }, "Boxes…"),
  h("button", { type: "button", class: "quiet", "aria-label": `Remove ${one.file.name}`,
    onclick: () => { chosen = chosen.filter((other) => other !== one); showChosen(); } }, "×"));
  const more = chosen.length - SHOWN;
  find("#enrollment button.main").textContent = chosen.length > 0 ? `Enroll ${count(chosen.length, "picture")}` : "Enroll";
  offerTimes();
  find("#chosen").hidden = chosen.length === 0;
  find("#chosen ul").replaceChildren(...chosen.slice(0, SHOWN).map(row), ...(more > 0 ? [h("li", { class: "hint" }, `and ${count(more, "more picture")}`)] : []));
  find("#no-images").onclick = () => { chosen = []; showChosen(); };
  if (chosen.every((one) => one.boxed || one.identity === undefined)) find("#passed-over").textContent = "";
}

const nameField = (one) => h("input", { list: "names", maxlength: 256, placeholder: "Name", value: one.identity ?? "", "aria-label": `Name of ${one.file.name}`,
  oninput: (event) => { one.identity = event.target.value || null; } });

// A picture of several people gives way to what is in its boxes, each with a name of its own.
async function drawBoxes(one) {
  const parts = await askForBoxes(one.file, { action: "Take", each: "each box gets a name of its own" });
  if (!parts) return;
  const files = parts.map((blob, at) => new File([blob], `${one.file.name}, box ${at + 1}`, { type: blob.type }));
  chosen.splice(chosen.indexOf(one), 1, ...files.map((file) => ({ file, boxed: true, identity: null, taken: one.taken })));
  showChosen();
}

async function enroll(form) {
  await attempt(form, async () => {
    if (chosen.length === 0) throw new Error("Choose or drop pictures first.");
    await reading;
    const { identity, camera, captured_at: time, file_times: own } = Object.fromEntries(new FormData(form));
    const shared = [["camera", camera]];
    const all = time && new Date(time).toISOString();
    const items = chosen.map((one) => ({ file: one.file, identity: one.identity ?? identity, captured_at: (own && one.taken?.toISOString()) || all }));
    // Images dropped from here on belong to the next enrollment, which has fields of its own.
    chosen = [];
    showChosen();
    await enrollAll(find("#outcomes"), inGallery("/crops"), shared, items);
  });
}
