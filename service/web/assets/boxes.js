// Boxes on a photo, found by the service or drawn by hand. The browser cuts out those that are
// chosen, so that other people on the photo are neither searched for nor stored.

import { h, pictureOf, showForm } from "./elements.js";
import { findPeople, findsPeople } from "./photos.js";
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
const within = (value, least, most) => Math.max(least, Math.min(most, value));

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
  const use = h("button", { class: "main", disabled: true }, action);
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
    boxes.push(...people.map((person) => ({ ...person, chosen: false })));
    title.textContent =
      people.length > 0 ? (single ? t("boxes.whom") : t("boxes.choose")) : t("boxes.draw_around");
    hint.textContent =
      people.length > 0
        ? t("boxes.found", { count: people.length, each })
        : reason
          ? t("boxes.failed", { reason, each })
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
  showPeople(looked);
  return new Promise((resolve) => {
    const chosen = {
      yes: () => Promise.all(boxes.filter((box) => box.chosen).map((box) => cut(image, box, blob))),
      whole: () => [blob],
    };
    const dialog = showForm(
      { class: "question frame-of", "aria-label": t("boxes.draw") },
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
