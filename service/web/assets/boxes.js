// Boxes on a photo, found by the service or drawn by hand. The browser cuts out those that are
// chosen, so that other people on the photo are neither searched for nor stored.

import { h, pictureOf, sentence, showForm } from "./elements.js";
import { areSignsOff } from "./keys.js";
import { findPeople, findsPeople, lookAt } from "./photos.js";
import { t } from "./texts.js";

const STEP = 0.01;
const LEAST = 0.02;
const FIRST = { x: 0.4, y: 0.2, width: 0.2, height: 0.6 };
const BY_KEY = {
  ArrowLeft: [-STEP, 0],
  ArrowRight: [STEP, 0],
  ArrowUp: [0, -STEP],
  ArrowDown: [0, STEP],
};
// Of each note that people are looked for: the files for which it was last shown.
const latest = new WeakMap();
const within = (value, least, most) => Math.max(least, Math.min(most, value));

// Resolve to {blob, frame} for each picture to search by, or to null: to pictures of one person as
// they are, and to the people who are chosen on photos. `looking` is shown while people are looked
// for; `options` are those of `askForBoxes`.
export async function takePeople(files, looking, options) {
  latest.set(looking, files);
  const taken = [];
  for (const frame of files) {
    looking.hidden = false;
    const looked = await lookAt(frame);
    // Other pictures were dropped in the meantime.
    if (latest.get(looking) !== files) return null;
    looking.hidden = true;
    const blobs =
      looked === null ? [frame] : await askForBoxes(frame, { ...options, looked, whole: true });
    if (blobs === null) return null;
    taken.push(...blobs.map((blob) => ({ blob, frame })));
  }
  return taken;
}

// Resolve to an image file for each chosen box, or null. `looked` is what `lookAt` returned of the
// photo. With `whole` the picture itself can be chosen, and with `single` one person of those that
// were found.
export function askForBoxes(
  blob,
  {
    looked = { people: [] },
    whole = false,
    single = false,
    action = t("search.start"),
    each = t("boxes.each"),
  } = {},
) {
  const boxes = [];
  const image = pictureOf(blob, t("boxes.picture"));
  const stage = h("div", { class: "stage" }, image);
  const title = h("h2", {});
  const hint = h("p", { role: "status" });
  let instructions = "";
  const use = h("button", { class: "main", disabled: true }, action);
  const all = h("button", { type: "button", onclick: () => dialog.close("all") });
  const add = (box) => {
    boxes.push({ ...box, chosen: true });
    draw();
    stage.lastChild.focus();
  };

  function choose(box) {
    const chosen = !box.chosen;
    if (single && chosen && box.score) for (const other of boxes) other.chosen &&= !other.score;
    box.chosen = chosen;
    draw();
    stage.children[boxes.indexOf(box) + 1].focus();
  }

  function draw() {
    const chosen = boxes.filter((box) => box.chosen).length;
    use.disabled = chosen === 0;
    use.textContent = chosen > 1 ? t("boxes.use_people", { action, count: chosen }) : action;
    all.hidden = single || boxes.length < 2;
    all.textContent = t("boxes.use_all", { action, count: boxes.length });
    // Screen readers read each change.
    if (hint.textContent !== instructions) hint.textContent = instructions;
    stage.replaceChildren(
      image,
      ...boxes.map((box, at) => {
        const element = h(
          "button",
          {
            type: "button",
            class: box.chosen ? "box chosen" : "box",
            "aria-pressed": String(Boolean(box.chosen)),
            onclick: () => choose(box),
            onkeydown: (event) => change(event, at, element),
            "aria-label": t(box.score ? "boxes.person" : "boxes.box", { number: at + 1 }),
          },
          at + 1,
        );
        return place(element, box);
      }),
    );
  }

  function showPeople({ people, reason, looked: wasLookedAt }) {
    // The only person is chosen already; the photo is used only after a confirmation.
    const chosen = people.length === 1;
    boxes.push(...people.map((person) => ({ ...person, chosen })));
    title.textContent =
      people.length > 0 ? (single ? t("boxes.whom") : t("boxes.choose")) : t("boxes.draw_around");
    instructions =
      people.length > 0
        ? t("boxes.found", { count: people.length, each })
        : reason
          ? t("boxes.failed", { reason: sentence(reason), each })
          : t(wasLookedAt ? "boxes.nobody" : "boxes.not_looked", { each });
    draw();
  }

  function change(event, at, element) {
    const box = boxes[at];
    const by = BY_KEY[event.key];
    if (event.key === "Delete" || event.key === "Backspace") {
      boxes.splice(at, 1);
      draw();
      (stage.querySelector(".box") ?? more).focus();
    } else if (by && event.shiftKey) {
      box.width = within(box.width + by[0], LEAST, 1 - box.x);
      box.height = within(box.height + by[1], LEAST, 1 - box.y);
    } else if (by) {
      box.x = within(box.x + by[0], 0, 1 - box.width);
      box.y = within(box.y + by[1], 0, 1 - box.height);
    } else return;
    event.preventDefault();
    place(element, box);
  }

  // Numbers choose wherever the focus is. The focus on a box chooses nobody: Enter answers with
  // those who are chosen.
  function press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const box = areSignsOff() ? undefined : boxes[Number(event.key) - 1];
    if (box) choose(box);
    else if (event.key !== "Enter" || event.target.closest("button:not(.box)")) return;
    else if (use.disabled) hint.textContent = t("boxes.nobody_chosen");
    else dialog.close("yes");
    event.preventDefault();
  }

  // Dragging draws a box. A very small box counts as a click.
  stage.addEventListener("pointerdown", (event) => {
    if (event.target.closest(".box")) return;
    event.preventDefault();
    const area = stage.getBoundingClientRect();
    const at = ({ clientX, clientY }) => [
      within((clientX - area.x) / area.width, 0, 1),
      within((clientY - area.y) / area.height, 0, 1),
    ];
    const [x, y] = at(event);
    const box = { x, y, width: 0, height: 0 };
    const shown = stage.appendChild(place(h("span", { class: "box" }), box));
    stage.setPointerCapture(event.pointerId);
    stage.onpointermove = (moved) => {
      const [toX, toY] = at(moved);
      Object.assign(box, {
        x: Math.min(x, toX),
        y: Math.min(y, toY),
        width: Math.abs(toX - x),
        height: Math.abs(toY - y),
      });
      place(shown, box);
    };
    stage.onpointerup = stage.onpointercancel = () => {
      stage.onpointermove = stage.onpointerup = stage.onpointercancel = null;
      shown.remove();
      if (box.width >= LEAST && box.height >= LEAST) add(box);
    };
  });

  const more = h("button", { type: "button", onclick: () => add({ ...FIRST }) }, t("boxes.add"));
  const finder = h(
    "button",
    {
      type: "button",
      hidden: looked.looked || !findsPeople(),
      title: t("boxes.find.hint"),
      onclick: async () => {
        finder.disabled = true;
        hint.textContent = t("boxes.looking");
        showPeople(
          await findPeople(blob).then(
            (people) => ({ people, looked: true }),
            (error) => ({ people: [], reason: error.message }),
          ),
        );
        finder.hidden = true;
        (stage.querySelector(".box") ?? more).focus();
      },
    },
    t("boxes.find"),
  );
  let dialog;
  showPeople(looked);
  return new Promise((resolve) => {
    const cutAll = (those) => Promise.all(those.map((box) => cut(image, box, blob)));
    const chosen = {
      yes: () => cutAll(boxes.filter((box) => box.chosen)),
      all: () => cutAll(boxes),
      whole: () => [blob],
    };
    dialog = showForm(
      { class: "question frame-of", "aria-label": t("boxes.draw"), onkeydown: press },
      async (answer) => resolve((await chosen[answer]?.()) ?? null),
      title,
      hint,
      stage,
      h(
        "div",
        { class: "row end" },
        finder,
        more,
        whole &&
          h(
            "button",
            { type: "button", class: "quiet", onclick: () => dialog.close("whole") },
            t("boxes.use_whole", { action }),
          ),
        h("span", { class: "grow" }),
        h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, t("cancel")),
        all,
        use,
      ),
    );
    (stage.querySelector(".box") ?? more).focus();
  });
}

function place(element, { x, y, width, height }) {
  Object.assign(element.style, {
    left: `${100 * x}%`,
    top: `${100 * y}%`,
    width: `${100 * width}%`,
    height: `${100 * height}%`,
  });
  return element;
}

// Cut a box out of a picture. The name of the file says of which picture it is what part.
function cut(image, { x, y, width, height }, { name = "" }) {
  const { naturalWidth: wide, naturalHeight: high } = image;
  const canvas = h("canvas", {
    width: Math.max(1, Math.round(width * wide)),
    height: Math.max(1, Math.round(height * high)),
  });
  canvas
    .getContext("2d")
    .drawImage(
      image,
      x * wide,
      y * high,
      width * wide,
      height * high,
      0,
      0,
      canvas.width,
      canvas.height,
    );
  const corner = `${Math.round(x * wide)},${Math.round(y * high)}`;
  const part = `${corner} ${canvas.width}×${canvas.height}.png`;
  const fileName = [name.replace(/\.\w+$/, ""), part].filter(Boolean).join(" ");
  return new Promise((resolve) =>
    canvas.toBlob((blob) => resolve(new File([blob], fileName, { type: blob.type })), "image/png"),
  );
}
