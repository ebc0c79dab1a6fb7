// The enrollment form: images, or a folder whose sub-folders name the people.

import { enrollAll } from "./batches.js";
import { askForBoxes } from "./boxes.js";
import { attempt, find, h, moment, nfc, onSubmit, pictureOf, takeFiles } from "./elements.js";
import { lookAt } from "./photos.js";
import { inGallery } from "./place.js";
import { takenAt } from "./taken.js";
import { t, textNodes } from "./texts.js";

const IMAGE = /\.(jpe?g|jpe|jfif|png|webp|bmp)$/i;
// What storage systems and programs make for their own use, besides names that begin with a dot.
// Imports have the same list, in model/crops/names.py.
const BY_PRODUCTS = [
  "$recycle.bin",
  "recycler",
  "recycled",
  "recycle bin",
  "system volume information",
  "thumbs.db",
  "ehthumbs.db",
  "ehthumbs_vista.db",
  "desktop.ini",
  "__macosx",
  "network trash folder",
  "temporary items",
  "thevolumesettingsfolder",
  "icon\r",
  "lost+found",
  "lost.dir",
  "@eadir",
  "@tmp",
  "@sharebin",
  "@sharesnap",
  "#recycle",
  "#snapshot",
  "@recycle",
  "@recently-snapshot",
  "@transcode",
  "~snapshot",
  "trashbox",
];
const FOUND_BY_A_DISK_CHECK = /^found\.\d{3}$/;
const SHOWN = 40;
// Pictures are {file}, those of a folder {file, identity}, and boxes of a picture {file, boxed,
// identity}. `taken` is the time that the file gives, or null.
let chosen = [];
let reading = Promise.resolve();

export function startEnrollment() {
  const form = find("#enrollment");
  takeFiles(form.querySelector(".drop"), (files) =>
    attempt(form, async () => {
      for (const file of files) await readable(file);
      const pictures = files.map((file) => ({ file }));
      choose(pictures);
      const looked = files.length === 1 ? await lookAt(files[0]) : null;
      if (looked) await drawBoxes(pictures[0], looked);
    }),
  );
  takeFiles(form.querySelector(".folder"), (files) => attempt(form, () => choose(imagesOf(files))));
  onSubmit(form, enroll);
}

const isHidden = (part) =>
  part.startsWith(".") ||
  BY_PRODUCTS.includes(part.toLowerCase()) ||
  FOUND_BY_A_DISK_CHECK.test(part.toLowerCase());

// Imports follow the same rule: if no image lies directly in the folder, sub-folders name the
// people.
function imagesOf(files) {
  const parts = (file) => file.webkitRelativePath.split("/");
  // The folder itself was chosen, whatever its name.
  const liesHidden = (file) => parts(file).slice(1).some(isHidden);
  const hidden = files.filter(liesHidden);
  const visible = files.filter((file) => !liesHidden(file));
  const leftOut =
    hidden.length > 0 &&
    t("enroll.left_out", { count: hidden.length, name: hidden[0].webkitRelativePath });
  const isManifest = (file) =>
    parts(file).length === 2 && file.name.toLowerCase() === "manifest.csv";
  if (visible.some(isManifest)) {
    throw new Error(t("enroll.manifest"));
  }
  const images = visible
    .filter((file) => IMAGE.test(file.name))
    .sort((first, second) =>
      first.webkitRelativePath.localeCompare(second.webkitRelativePath, undefined, {
        numeric: true,
      }),
    );
  if (images.length === 0)
    throw new Error([t("enroll.no_picture"), leftOut].filter(Boolean).join(" "));
  const named = images.every((file) => parts(file).length > 2);
  const others = visible.length - images.length;
  find("#passed-over").textContent = [
    named
      ? t("enroll.folders_name", {
          count: new Set(images.map((file) => nfc(parts(file)[1]))).size,
        })
      : t("enroll.no_folders"),
    others > 0 && t("enroll.passed_over", { count: others }),
    leftOut,
  ]
    .filter(Boolean)
    .join(" ");
  return images.map((file) => ({ file, ...(named && { identity: nfc(parts(file)[1]) }) }));
}

// A dropped folder arrives as a file that cannot be read.
const readable = (file) =>
  file
    .slice(0, 1)
    .arrayBuffer()
    .catch(() => {
      throw new Error(t("enroll.unreadable", { name: file.name }));
    });

function choose(more) {
  chosen = [...chosen, ...more];
  showChosen();
  reading = reading.then(async () => {
    for (const picture of more) picture.taken = await takenAt(picture.file);
    showChosen();
  });
}

function offerTimes() {
  const place = find("#file-times");
  const known = chosen.filter((picture) => picture.taken);
  place.hidden = known.length === 0;
  place.querySelector("span").textContent = t("enroll.file_times", {
    known: known.length,
    count: chosen.length,
  });
}

// A name for every picture has no use if the folder names each of them.
function offerName() {
  const field = find("#enrollment").elements.identity;
  const named = chosen.length > 0 && chosen.every(({ boxed, identity }) => identity && !boxed);
  if (named) field.value = "";
  field.disabled = named;
  find("#named-by").hidden = !named;
}

function showChosen() {
  const row = (picture) =>
    h(
      "li",
      {},
      pictureOf(picture.file, ""),
      h(
        "div",
        { class: "grow" },
        h("span", { class: "name" }, picture.file.name),
        picture.boxed
          ? nameField(picture)
          : picture.identity && h("p", { class: "hint name" }, picture.identity),
        picture.taken &&
          h(
            "p",
            { class: "hint" },
            textNodes("enroll.file_says", { time: moment(picture.taken.toISOString()) }),
          ),
      ),
      picture.identity === undefined &&
        h(
          "button",
          {
            type: "button",
            "aria-label": t("enroll.draw_boxes", { name: picture.file.name }),
            onclick: () => drawBoxes(picture),
          },
          t("search.boxes"),
        ),
      h(
        "button",
        {
          type: "button",
          class: "quiet",
          "aria-label": t("enroll.remove", { name: picture.file.name }),
          onclick: () => {
            chosen = chosen.filter((other) => other !== picture);
            showChosen();
          },
        },
        "×",
      ),
    );
  const more = chosen.length - SHOWN;
  find("#enrollment button.main").textContent =
    chosen.length > 0 ? t("enroll.count", { count: chosen.length }) : t("enroll.do");
  offerTimes();
  offerName();
  find("#chosen").hidden = chosen.length === 0;
  find("#chosen ul").replaceChildren(
    ...chosen.slice(0, SHOWN).map(row),
    ...(more > 0 ? [h("li", { class: "hint" }, t("enroll.more", { count: more }))] : []),
  );
  find("#no-images").onclick = () => {
    chosen = [];
    showChosen();
  };
  if (chosen.every((picture) => picture.boxed || picture.identity === undefined))
    find("#passed-over").textContent = "";
}

const nameField = (picture) =>
  h("input", {
    list: "names",
    maxlength: 256,
    placeholder: t("name"),
    value: picture.identity ?? "",
    "aria-label": t("enroll.name_of", { name: picture.file.name }),
    oninput: (event) => {
      picture.identity = event.target.value || null;
    },
  });

// Replace a picture of several people by its boxes, each with its own name.
async function drawBoxes(picture, looked) {
  const parts = await askForBoxes(picture.file, {
    looked,
    whole: Boolean(looked),
    action: t("enroll.take"),
    each: t("enroll.each_box"),
  });
  if (!parts || parts[0] === picture.file) return;
  const files = parts.map(
    (blob, index) =>
      new File([blob], t("enroll.box", { name: picture.file.name, number: index + 1 }), {
        type: blob.type,
      }),
  );
  chosen.splice(
    chosen.indexOf(picture),
    1,
    ...files.map((file) => ({ file, boxed: true, identity: null, taken: picture.taken })),
  );
  showChosen();
}

async function enroll(form) {
  await attempt(form, async () => {
    if (chosen.length === 0) throw new Error(t("enroll.first"));
    await reading;
    const {
      identity,
      camera,
      captured_at: time,
      file_times: useFileTimes,
    } = Object.fromEntries(new FormData(form));
    const shared = [["camera", camera]];
    const all = time && new Date(time).toISOString();
    const items = chosen.map((picture) => ({
      file: picture.file,
      identity: picture.identity ?? identity,
      captured_at: (useFileTimes && picture.taken?.toISOString()) || all,
    }));
    // Images dropped from now on belong to the next enrollment, which has its own fields.
    chosen = [];
    showChosen();
    const counts = await enrollAll(find("#outcomes"), inGallery("/crops"), shared, items);
    // The next pictures may show somebody else. A name typed meanwhile is theirs.
    const field = form.elements.identity;
    if (counts.enrolled + counts.there > 0 && field.value === identity) field.value = "";
  });
}
